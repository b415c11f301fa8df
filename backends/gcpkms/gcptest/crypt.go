package gcptest

import (
	"context"
	"fmt"
	"hash/crc32"
	"slices"
	"strconv"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const maxData = 64 << 10

// Encrypt implements kmspb.KeyManagementServiceServer.
func (s *Server) Encrypt(_ context.Context, req *kmspb.EncryptRequest) (*kmspb.EncryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, version := keyOf(req.Name)
	k, err := s.use(name, UseToEncrypt)
	if err != nil {
		return nil, err
	}
	number := k.primary
	if version != "" {
		if number, err = strconv.Atoi(version); err != nil {
			number = 0
		}
	}
	switch {
	case number < 1 && version == "":
		return nil, status.Errorf(codes.FailedPrecondition, "CryptoKey %s has no primary CryptoKeyVersion.", name)
	case number < 1 || number > len(k.versions):
		return nil, status.Errorf(codes.NotFound, "CryptoKeyVersion %s not found.", req.Name)
	case len(req.Plaintext) > maxData || len(req.AdditionalAuthenticatedData) > maxData:
		return nil, status.Errorf(codes.InvalidArgument, "The request is larger than %d bytes.", maxData)
	}
	v := k.versions[number-1]
	if err := v.usable(name, number); err != nil {
		return nil, err
	}
	if err := fits("plaintext", req.Plaintext, req.PlaintextCrc32C); err != nil {
		return nil, err
	}
	if err := fits("additional_authenticated_data", req.AdditionalAuthenticatedData, req.AdditionalAuthenticatedDataCrc32C); err != nil {
		return nil, err
	}
	ciphertext := v.aead.Seal(slices.Clone(v.id), nil, req.Plaintext, req.AdditionalAuthenticatedData)
	return &kmspb.EncryptResponse{
		Name:                    name + "/cryptoKeyVersions/" + strconv.Itoa(number),
		Ciphertext:              ciphertext,
		CiphertextCrc32C:        Checksum(ciphertext),
		VerifiedPlaintextCrc32C: req.PlaintextCrc32C != nil,
		VerifiedAdditionalAuthenticatedDataCrc32C: req.AdditionalAuthenticatedDataCrc32C != nil,
		ProtectionLevel: kmspb.ProtectionLevel_SOFTWARE,
	}, nil
}

// Decrypt implements kmspb.KeyManagementServiceServer.
func (s *Server) Decrypt(_ context.Context, req *kmspb.DecryptRequest) (*kmspb.DecryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, version := keyOf(req.Name); version != "" {
		return nil, status.Errorf(codes.InvalidArgument, "Resource name %s is not a CryptoKey.", req.Name)
	}
	k, err := s.use(req.Name, UseToDecrypt)
	if err != nil {
		return nil, err
	}
	if err := fits("ciphertext", req.Ciphertext, req.CiphertextCrc32C); err != nil {
		return nil, err
	}
	if err := fits("additional_authenticated_data", req.AdditionalAuthenticatedData, req.AdditionalAuthenticatedDataCrc32C); err != nil {
		return nil, err
	}
	v, number := k.find(req.Ciphertext)
	if v == nil {
		return nil, status.Error(codes.InvalidArgument, "Decryption failed: verify that 'name' refers to the correct CryptoKey.")
	}
	if err := v.usable(req.Name, number); err != nil {
		return nil, err
	}
	plaintext, err := v.aead.Open(nil, nil, req.Ciphertext[len(v.id):], req.AdditionalAuthenticatedData)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "Decryption failed: the ciphertext is invalid.")
	}
	return &kmspb.DecryptResponse{
		Plaintext: plaintext, PlaintextCrc32C: Checksum(plaintext),
		UsedPrimary: number == k.primary, ProtectionLevel: kmspb.ProtectionLevel_SOFTWARE,
	}, nil
}

// use returns a key, if it may be used. s.mu is held.
func (s *Server) use(name, permission string) (*cryptoKey, error) {
	if s.denied[permission+" "+name] {
		return nil, refusal(codes.PermissionDenied,
			fmt.Sprintf("Permission '%s' denied on resource '%s' (or it may not exist).", permission, name),
			"IAM_PERMISSION_DENIED", map[string]string{"permission": permission, "resource": name})
	}
	k, ok := s.keys[name]
	switch {
	case !ok:
		return nil, status.Errorf(codes.NotFound, "CryptoKey %s not found.", name)
	case k.purpose != kmspb.CryptoKey_ENCRYPT_DECRYPT:
		return nil, status.Errorf(codes.InvalidArgument, "The purpose of CryptoKey %s is %s, which does not serve this operation.", name, k.purpose)
	}
	return k, nil
}

func (v *keyVersion) usable(key string, number int) error {
	if v.state == kmspb.CryptoKeyVersion_ENABLED {
		return nil
	}
	return status.Errorf(codes.FailedPrecondition, "%s/cryptoKeyVersions/%d is not enabled, current state is: %s.", key, number, v.state)
}

// fits refuses a field that is not what its sender had.
func fits(field string, b []byte, sum *wrapperspb.Int64Value) error {
	if sum == nil || sum.Value == Checksum(b).Value {
		return nil
	}
	return status.Errorf(codes.InvalidArgument, "The checksum in field %s_crc32c did not match the data in field %s.", field, field)
}

// Checksum is the CRC32C of b as Cloud KMS sends it.
func Checksum(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
}
