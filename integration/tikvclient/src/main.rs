//! One call to AWS KMS as TiKV makes it: the crates of TiKV's Cargo.lock, its HTTP
//! client, its classes of errors and its retries. It reads a request, a JSON object, and
//! prints another for each try that failed, when it has, and one for how it ended.
//!
//! What TiKV does is read from its source, 9.0.0-beta.2: components/cloud/aws/src/kms.rs
//! and util.rs, components/encryption/src/master_key/kms.rs,
//! components/tikv_util/src/stream.rs.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::decrypt::DecryptError;
use aws_sdk_kms::operation::generate_data_key::GenerateDataKeyError;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use aws_sdk_kms::Client;
use aws_smithy_runtime::client::http::hyper_014::HyperClientBuilder;
use base64::prelude::{Engine, BASE64_STANDARD};
use serde::{Deserialize, Serialize};

/// TiKV's outer retry: so many after the first try, and the longest wait between them.
const MAX_RETRIES: u32 = 14;
const MAX_WAIT: Duration = Duration::from_secs(32);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    endpoint: String,
    region: String,
    access_key: String,
    secret_access_key: String,
    key_id: String,
    /// The wrapped key to open, in base64; without it a data key is made.
    ciphertext_blob: Option<String>,
    /// What TiKV's waits are divided by, and those of the SDK.
    divisor: u32,
    /// How long a try may take, in milliseconds. With TiKV it is 10 s.
    timeout_ms: u64,
}

#[derive(Serialize)]
struct End {
    /// The waits between the tries, as TiKV would have had them.
    waited_ms: u64,
    /// The class of the last error as the caller sees it; none if there is a data key.
    error: Option<&'static str>,
    plaintext: Option<String>,
    ciphertext_blob: Option<String>,
    key_id: Option<String>,
}

#[derive(Serialize)]
struct Try {
    class: &'static str,
    /// AWS's code, if the server answered with one.
    code: Option<String>,
    retryable: bool,
    /// What TiKV's log would show.
    said: String,
}

struct Answer {
    plaintext: Vec<u8>,
    ciphertext_blob: Option<Vec<u8>>,
    key_id: Option<String>,
}

/// The classes of cloud::error that a call to KMS may end with.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    ApiTimeout,
    ApiInternal,
    ApiNotFound,
    WrongMasterKey,
    Other,
    TimedOut,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Class::ApiTimeout => "ApiTimeout",
            Class::ApiInternal => "ApiInternal",
            Class::ApiNotFound => "ApiNotFound",
            Class::WrongMasterKey => "WrongMasterKey",
            Class::Other => "KmsError::Other",
            Class::TimedOut => "Other",
        }
    }

    fn retryable(self) -> bool {
        matches!(
            self,
            Class::ApiTimeout | Class::ApiInternal | Class::TimedOut
        )
    }
}

fn of_generate(e: &SdkError<GenerateDataKeyError>) -> Class {
    match e {
        SdkError::ServiceError(s) => match s.err() {
            GenerateDataKeyError::NotFoundException(_) => Class::ApiNotFound,
            GenerateDataKeyError::DependencyTimeoutException(_) => Class::ApiTimeout,
            GenerateDataKeyError::KmsInternalException(_) => Class::ApiInternal,
            _ => Class::Other,
        },
        _ => of_the_rest(e),
    }
}

fn of_decrypt(e: &SdkError<DecryptError>) -> Class {
    match e {
        SdkError::ServiceError(s) => match s.err() {
            DecryptError::IncorrectKeyException(_) | DecryptError::NotFoundException(_) => {
                Class::WrongMasterKey
            }
            DecryptError::DependencyTimeoutException(_) => Class::ApiTimeout,
            DecryptError::KmsInternalException(_) => Class::ApiInternal,
            _ => Class::Other,
        },
        _ => of_the_rest(e),
    }
}

fn of_the_rest<E>(e: &SdkError<E>) -> Class {
    match e {
        SdkError::DispatchFailure(_) => Class::ApiTimeout,
        SdkError::TimeoutError(_) => Class::ApiInternal,
        SdkError::ResponseError(r) => {
            let status = r.raw().status().as_u16();
            if status >= 500 || status == 408 {
                Class::ApiInternal
            } else {
                Class::Other
            }
        }
        _ => Class::Other,
    }
}

fn failed<E: ProvideErrorMetadata>(
    e: SdkError<E>,
    class: Class,
) -> (Class, Option<String>, String) {
    let said = e.to_string();
    let code = match &e {
        SdkError::ServiceError(s) => s.err().code().map(str::to_owned),
        _ => None,
    };
    (class, code, said)
}

async fn call(
    client: &Client,
    request: &Request,
    blob: Option<&[u8]>,
) -> Result<Answer, (Class, Option<String>, String)> {
    match blob {
        Some(blob) => {
            let r = client
                .decrypt()
                .ciphertext_blob(Blob::new(blob))
                .key_id(&request.key_id)
                .send()
                .await
                .map_err(|e| {
                    let class = of_decrypt(&e);
                    failed(e, class)
                })?;
            Ok(Answer {
                plaintext: r.plaintext.expect("an answer has a plaintext").into_inner(),
                ciphertext_blob: None,
                key_id: r.key_id,
            })
        }
        None => {
            let r = client
                .generate_data_key()
                .key_id(&request.key_id)
                .key_spec(DataKeySpec::Aes256)
                .send()
                .await
                .map_err(|e| {
                    let class = of_generate(&e);
                    failed(e, class)
                })?;
            Ok(Answer {
                plaintext: r.plaintext.expect("an answer has a plaintext").into_inner(),
                ciphertext_blob: Some(
                    r.ciphertext_blob
                        .expect("an answer has a blob")
                        .into_inner(),
                ),
                key_id: r.key_id,
            })
        }
    }
}

async fn client(request: &Request) -> Client {
    let http = HyperClientBuilder::new()
        .hyper_builder(hyper::Client::builder())
        .build(hyper_tls::HttpsConnector::new());
    let credentials = Credentials::new(
        &request.access_key,
        &request.secret_access_key,
        None,
        None,
        "static",
    );
    let shared = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .credentials_provider(credentials)
        .region(Region::new(request.region.clone()))
        .endpoint_url(&request.endpoint)
        .load()
        .await;
    // Everything is the SDK's own default, but that its waits are divided.
    let retries =
        RetryConfig::standard().with_initial_backoff(Duration::from_secs(1) / request.divisor);
    let config = aws_sdk_kms::config::Builder::from(&shared)
        .retry_config(retries)
        .build();
    Client::from_conf(config)
}

async fn run(request: Request) -> End {
    let blob = request.ciphertext_blob.as_ref().map(|b| {
        BASE64_STANDARD
            .decode(b)
            .expect("ciphertext_blob is base64")
    });
    let client = client(&request).await;
    let mut tries = 0;
    let mut end = End {
        waited_ms: 0,
        error: None,
        plaintext: None,
        ciphertext_blob: None,
        key_id: None,
    };
    let mut wait = Duration::from_secs(1);
    let last = loop {
        let limit = Duration::from_millis(request.timeout_ms);
        let (class, code, said) =
            match tokio::time::timeout(limit, call(&client, &request, blob.as_deref())).await {
                Ok(Ok(answer)) => {
                    end.plaintext = Some(BASE64_STANDARD.encode(answer.plaintext));
                    end.ciphertext_blob = answer.ciphertext_blob.map(|b| BASE64_STANDARD.encode(b));
                    end.key_id = answer.key_id;
                    return end;
                }
                Ok(Err(failure)) => failure,
                Err(_) => (Class::TimedOut, None, "request timeout".to_owned()),
            };
        say(&Try {
            class: class.name(),
            code,
            retryable: class.retryable(),
            said,
        });
        tries += 1;
        if !class.retryable() || tries > MAX_RETRIES {
            break class;
        }
        let this = wait + Duration::from_millis(fastrand::u64(0..1000));
        end.waited_ms += this.as_millis() as u64;
        tokio::time::sleep(this / request.divisor).await;
        wait = MAX_WAIT.min(wait * 2);
    };
    // Whatever Decrypt ends with is taken for a wrong key.
    end.error = Some(if blob.is_some() {
        Class::WrongMasterKey.name()
    } else {
        last.name()
    });
    end
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let request: Request =
        serde_json::from_reader(std::io::stdin()).expect("a request on standard input");
    let end = run(request).await;
    say(&end);
}

fn say(value: &impl Serialize) {
    println!("{}", serde_json::to_string(value).expect("it is JSON"));
}
