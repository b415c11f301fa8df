// Package tpmseal seals a short secret to the TPM 2.0 of this host: what it returns
// can be opened by that TPM and by no other.
//
// The secret is a sealed object under the storage root key that the TPM derives from
// its owner seed by the TCG's template (ECC P-256), so that nothing needs to be
// provisioned or kept in the TPM. It is bound to the TPM and not to what has booted:
// there is no PCR policy, and whoever may use the TPM of the running host can open
// it. tpm2_clear makes it useless. The secret crosses the bus encrypted (a salted
// HMAC session with AES-128-CFB), which keeps it from who listens there, not from
// who can answer in the TPM's place.
//
// AES-CFB is outside FIPS 140: under GODEBUG=fips140=only nothing here runs, and
// ErrFIPS140 says so.
package tpmseal

import (
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// MaxSecret is the size of the longest secret that every TPM seals, in bytes
// (TPM 2.0 library, MAX_SYM_DATA).
const MaxSecret = 128

// Errors of Seal and Unseal; others are the TPM's or the device's, and name the step.
var (
	// ErrFIPS140: the process runs under GODEBUG=fips140=only.
	ErrFIPS140 = errors.New("a TPM encrypts its sessions by AES-CFB, which GODEBUG=fips140=only does not allow")
	// ErrSize: the secret is empty or longer than MaxSecret.
	ErrSize = fmt.Errorf("tpmseal: a secret is 1 to %d bytes", MaxSecret)
	// ErrForeign: the blob is not one of Seal's.
	ErrForeign = errors.New("not what a TPM sealed")
)

// Device is a TPM. It is safe for concurrent use if the device is, as /dev/tpmrm0 is:
// each call opens it for itself.
type Device struct {
	// Path of the TPM's character device, /dev/tpmrm0 as a rule, or of the unix socket
	// of a software TPM.
	Path string
}

// Seal returns secret, 1 to MaxSecret bytes, sealed to the TPM: some 300 bytes.
func (d Device) Seal(secret []byte) (blob []byte, err error) {
	if len(secret) < 1 || len(secret) > MaxSecret {
		return nil, ErrSize
	}
	err = d.underRoot(func(t transport.TPM, root storageRoot) error {
		created, err := tpm2.Create{
			ParentHandle: tpm2.AuthHandle{Handle: root.handle, Name: root.name, Auth: root.session(tpm2.AESEncryption(128, tpm2.EncryptIn))},
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
			}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type:    tpm2.TPMAlgKeyedHash,
				NameAlg: tpm2.TPMAlgSHA256,
				// NoDA: there is nothing to guess, and no lockout to wait for.
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true, NoDA: true},
			}),
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("TPM2_Create: %w", err)
		}
		public, private := tpm2.Marshal(created.OutPublic), tpm2.Marshal(created.OutPrivate)
		blob = binary.BigEndian.AppendUint16(nil, uint16(len(public))) //nolint:gosec // a TPM2B is shorter than 64 KiB
		blob = append(append(blob, public...), private...)
		return nil
	})
	return blob, err
}

// Unseal returns the secret of a blob that Seal has made with the same TPM. It is the
// caller's to wipe.
func (d Device) Unseal(blob []byte) (secret []byte, err error) {
	if len(blob) < 2 {
		return nil, ErrForeign
	}
	n := int(binary.BigEndian.Uint16(blob))
	if n > len(blob)-2 {
		return nil, ErrForeign
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](blob[2 : 2+n])
	if err != nil {
		return nil, ErrForeign
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](blob[2+n:])
	if err != nil {
		return nil, ErrForeign
	}
	err = d.underRoot(func(t transport.TPM, root storageRoot) (err error) {
		loaded, err := tpm2.Load{
			ParentHandle: tpm2.AuthHandle{Handle: root.handle, Name: root.name, Auth: tpm2.PasswordAuth(nil)},
			InPrivate:    *private, InPublic: *public,
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("TPM2_Load (it was sealed by another TPM, or the TPM was cleared): %w", err)
		}
		defer flush(t, loaded.ObjectHandle, &err)
		unsealed, err := tpm2.Unseal{
			ItemHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: root.session(tpm2.AESEncryption(128, tpm2.EncryptOut))},
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("TPM2_Unseal: %w", err)
		}
		secret = unsealed.OutData.Buffer
		return nil
	})
	if err != nil {
		clear(secret)
		return nil, err
	}
	return secret, nil
}

// storageRoot is the storage root key, for one use of the TPM.
type storageRoot struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// session authorises one command for an object without a password, and encrypts its
// first parameter or that of the answer by a salt that only this key opens.
func (r storageRoot) session(encryption tpm2.AuthOption) tpm2.Session {
	const nonce = 16
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonce, tpm2.Salted(r.handle, r.public), encryption)
}

// underRoot calls f with the TPM and its storage root key.
func (d Device) underRoot(f func(transport.TPM, storageRoot) error) (err error) {
	if fips140.Enforced() {
		return ErrFIPS140
	}
	t, err := d.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	root, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t)
	if err != nil {
		return fmt.Errorf("TPM2_CreatePrimary (the owner hierarchy must be enabled and have no password): %w", err)
	}
	defer flush(t, root.ObjectHandle, &err)
	public, err := root.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("TPM2_CreatePrimary: %w", err)
	}
	return f(t, storageRoot{root.ObjectHandle, root.Name, *public})
}

func (d Device) open() (transport.TPMCloser, error) {
	info, err := os.Stat(d.Path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return linuxudstpm.Open(d.Path)
	}
	return linuxtpm.Open(d.Path)
}

// flush has the TPM forget an object: without a resource manager it has room for
// three.
func flush(t transport.TPM, handle tpm2.TPMHandle, err *error) {
	if _, failed := (tpm2.FlushContext{FlushHandle: handle}).Execute(t); failed != nil {
		*err = errors.Join(*err, fmt.Errorf("TPM2_FlushContext: %w", failed))
	}
}
