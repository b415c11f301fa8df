package config

import "time"

func (w *walker) awsKMS(b block) *AWSKMS {
	a := &AWSKMS{Timeout: DefaultKMSTimeout}
	b.pattern("region", &a.Region, awsRegion, "the region of all its master keys, such as eu-central-1")
	b.text("profile", &a.Profile, "the name of a profile in AWS's shared configuration files")
	if u := b.url("endpoint", &a.Endpoint, "https://kms.eu-central-1.amazonaws.com"); inTheClear(u) {
		v := b.fields["endpoint"]
		w.problem(v, quote(v.node.Value)+", over which keys would go in the clear", "https, or a loopback address")
	}
	b.boolean("fips", &a.FIPS)
	b.file("ca_file", &a.CAFile, trusted)
	if v, ok := b.fields["assume_role"]; ok {
		a.AssumeRole = w.awsAssumeRole(v)
	}
	if v, ok := b.fields["web_identity"]; ok {
		a.WebIdentity = w.awsWebIdentity(v)
	}
	b.duration("timeout", &a.Timeout, 100*time.Millisecond, time.Minute)
	if _, ok := b.fields["endpoint"]; ok && a.FIPS {
		w.misnamed(b.fields["fips"], "fips, which chooses the endpoint, beside endpoint", "the block without it, and as endpoint one of FIPS 140")
	}
	_, hasProfile := b.fields["profile"]
	if _, ok := b.fields["web_identity"]; ok && hasProfile {
		w.misnamed(b.fields["profile"], "profile beside web_identity, and credentials come from only one of them", "the block without the other one")
	}
	return a
}

func (w *walker) awsAssumeRole(v value) *AWSAssumeRole {
	b := w.block(v, "backends.NAME.assume_role")
	r := &AWSAssumeRole{SessionName: DefaultAWSSessionName}
	b.awsRole(&r.RoleARN, &r.SessionName)
	b.awsExternalID(&r.ExternalID)
	return r
}

func (w *walker) awsWebIdentity(v value) *AWSWebIdentity {
	b := w.block(v, "backends.NAME.web_identity")
	i := &AWSWebIdentity{SessionName: DefaultAWSSessionName}
	b.awsRole(&i.RoleARN, &i.SessionName)
	b.file("token_file", &i.TokenFile, projected)
	return i
}

func (b block) awsRole(arn, session *string) {
	b.pattern("role_arn", arn, roleARN, "a role's ARN, arn:aws:iam::ACCOUNT:role/NAME")
	b.pattern("session_name", session, awsSession, "2 to 64 letters, digits and _+=,.@-, which CloudTrail shows")
}

// awsExternalID reads what a role's trust policy asks for. It may have been meant
// to stay between two parties, so it is not repeated.
func (b block) awsExternalID(dst *string) {
	const name, most = "external_id", 1224 // sts:AssumeRole
	const want = "the external id in the role's trust policy: 2 to 1224 letters, digits and _+=,.@:/-"
	var id string
	b.text(name, &id, want)
	if id != "" && (len(id) < 2 || len(id) > most || !awsExternal.MatchString(id)) {
		b.w.problem(b.fields[name], "text of another form", want)
		return
	}
	*dst = id
}
