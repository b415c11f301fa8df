package grpcapi_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// contract is what clients rely on: the services, and the name, number and type
// of every field of their messages. Lines are added; none is ever changed.
const contract = `
service keybroker.v1.KeyBroker
  GenerateDataKey(GenerateDataKeyRequest) GenerateDataKeyResponse
  WrapKey(WrapKeyRequest) WrapKeyResponse
  UnwrapKey(UnwrapKeyRequest) UnwrapKeyResponse
  BatchUnwrapKeys(BatchUnwrapKeysRequest) BatchUnwrapKeysResponse
  RewrapKey(RewrapKeyRequest) RewrapKeyResponse
  InspectKey(InspectKeyRequest) InspectKeyResponse
  ListKeys(ListKeysRequest) ListKeysResponse
  RenewKey(RenewKeyRequest) RenewKeyResponse
message GenerateDataKeyRequest
  key_name 1 string
  key_length 2 uint32
  context 3 map<string, string>
message GenerateDataKeyResponse
  plaintext 1 bytes
  wrapped_key 2 bytes
  key_name 3 string
message WrapKeyRequest
  key_name 1 string
  plaintext 2 bytes
  context 3 map<string, string>
message WrapKeyResponse
  wrapped_key 1 bytes
  key_name 2 string
message UnwrapKeyRequest
  wrapped_key 1 bytes
  context 2 map<string, string>
message UnwrapKeyResponse
  plaintext 1 bytes
  key_name 2 string
  source 3 Source
message BatchUnwrapKeysRequest
  items 1 repeated BatchUnwrapKeysItem
message BatchUnwrapKeysItem
  wrapped_key 1 bytes
  context 2 map<string, string>
message BatchUnwrapKeysResponse
  results 1 repeated BatchUnwrapKeysResult
message BatchUnwrapKeysResult
  plaintext 1 bytes
  key_name 2 string
  source 3 Source
  error 4 google.rpc.Status
message RewrapKeyRequest
  wrapped_key 1 bytes
  context 2 map<string, string>
  key_name 3 string
message RewrapKeyResponse
  wrapped_key 1 bytes
  key_name 2 string
message InspectKeyRequest
  wrapped_key 1 bytes
message InspectKeyResponse
  key_name 1 string
  created_at 2 google.protobuf.Timestamp
  recipients 3 repeated Recipient
  missing 4 repeated Recipient
message Recipient
  provider 1 string
  key_ref 2 string
  key_version 3 string
  backend 4 string
  state 5 RecipientState
message ListKeysRequest
message ListKeysResponse
  keys 1 repeated KeyInfo
message RenewKeyRequest
  key_name 1 string
message RenewKeyResponse
  key 1 KeyInfo
message KeyInfo
  name 1 string
  recipients 2 repeated Recipient
  state 3 KeyState
  cached_until 4 google.protobuf.Timestamp
  stale_until 5 google.protobuf.Timestamp
enum Source
  SOURCE_UNSPECIFIED 0
  SOURCE_CACHE 1
  SOURCE_BACKEND 2
  SOURCE_STALE_CACHE 3
enum RecipientState
  RECIPIENT_STATE_UNSPECIFIED 0
  RECIPIENT_STATE_NOT_CONFIGURED 1
  RECIPIENT_STATE_UNKNOWN 2
  RECIPIENT_STATE_USABLE 3
  RECIPIENT_STATE_UNREACHABLE 4
  RECIPIENT_STATE_REFUSED 5
enum KeyState
  KEY_STATE_UNSPECIFIED 0
  KEY_STATE_UNKNOWN 1
  KEY_STATE_READY 2
  KEY_STATE_DEGRADED 3
  KEY_STATE_CACHED_ONLY 4
  KEY_STATE_UNAVAILABLE 5
service keybroker.v1.Admin
  GetStatus(GetStatusRequest) GetStatusResponse
  PurgeCache(PurgeCacheRequest) PurgeCacheResponse
  Reload(ReloadRequest) ReloadResponse
  TailAudit(TailAuditRequest) stream TailAuditResponse
  Drill(DrillRequest) stream DrillResponse
  RotateAudit(RotateAuditRequest) RotateAuditResponse
message RotateAuditRequest
message RotateAuditResponse
  public_key 1 string
message PurgeCacheRequest
  key_name 1 string
  force 2 bool
`

func TestContract(t *testing.T) {
	got := map[string]string{} // a section's first line -> its lines
	for _, file := range []protoreflect.FileDescriptor{keybrokerv1.File_keybroker_v1_keybroker_proto, keybrokerv1.File_keybroker_v1_admin_proto} {
		describe(got, file)
	}
	sections := strings.Split(strings.TrimSpace(strings.NewReplacer("\nmessage", "\n\nmessage", "\nenum", "\n\nenum", "\nservice", "\n\nservice").Replace(contract)), "\n\n")
	for _, want := range sections {
		head, _, _ := strings.Cut(want, "\n")
		if got[head] != want+"\n" {
			t.Errorf("the API has\n%s\nwant\n%s", got[head], want)
		}
		delete(got, head)
	}
	for head := range got {
		if !strings.HasPrefix(head, "message ") {
			t.Errorf("the API has %s, which the contract has not", head)
		}
	}
	for name := range got {
		if !adminMessage(strings.TrimPrefix(name, "message ")) {
			t.Errorf("the API has %s, which the contract has not", name)
		}
	}
}

// adminMessage tells whether a message is one of those for people and their
// tools, which may still change.
func adminMessage(name string) bool {
	switch name {
	case "GetStatusRequest", "GetStatusResponse", "BackendStatus", "CacheStatus", "AuditStatus", "MemoryStatus",
		"PurgeCacheResponse", "ReloadRequest", "ReloadResponse", "TailAuditRequest", "TailAuditResponse", "DrillRequest", "DrillResponse", "DrillKey":
		return true
	default:
		return false
	}
}

// describe adds a section for all that file declares.
func describe(sections map[string]string, file protoreflect.FileDescriptor) {
	for s := range each(file.Services()) {
		text := ""
		for m := range each(s.Methods()) {
			stream := ""
			if m.IsStreamingServer() {
				stream = "stream "
			}
			if m.IsStreamingClient() {
				stream += "of a stream "
			}
			text += fmt.Sprintf("  %s(%s) %s%s\n", m.Name(), m.Input().Name(), stream, m.Output().Name())
		}
		head := "service " + string(s.FullName())
		sections[head] = head + "\n" + text
	}
	for m := range each(file.Messages()) {
		text := ""
		for f := range each(m.Fields()) {
			text += fmt.Sprintf("  %s %d %s\n", f.Name(), f.Number(), typeOf(f))
		}
		head := "message " + string(m.Name())
		sections[head] = head + "\n" + text
	}
	for e := range each(file.Enums()) {
		text := ""
		for v := range each(e.Values()) {
			text += fmt.Sprintf("  %s %d\n", v.Name(), v.Number())
		}
		head := "enum " + string(e.Name())
		sections[head] = head + "\n" + text
	}
}

func typeOf(f protoreflect.FieldDescriptor) string {
	if f.IsMap() {
		return fmt.Sprintf("map<%s, %s>", f.MapKey().Kind(), f.MapValue().Kind())
	}
	kind := f.Kind().String()
	switch {
	case f.Message() != nil:
		kind = strings.TrimPrefix(string(f.Message().FullName()), "keybroker.v1.")
	case f.Enum() != nil:
		kind = string(f.Enum().Name())
	}
	if f.IsList() {
		kind = "repeated " + kind
	}
	return kind
}

// each yields what a list of descriptors has.
func each[D any](list interface {
	Len() int
	Get(int) D
}) func(func(D) bool) {
	return func(yield func(D) bool) {
		for i := range list.Len() {
			if !yield(list.Get(i)) {
				return
			}
		}
	}
}
