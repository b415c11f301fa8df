package integration_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/internal/tikv"
)

const keyDictWritten = `key\.dict written`

// TestTiKVStarts: a store is encrypted, runs, and is started again, and asks once each
// time that it starts and never else.
func TestTiKVStarts(t *testing.T) {
	t.Parallel()
	d := newFileDoor(t, "tikv")
	d.start()
	s := newTiKV(t, d.masterKey("tikv"))
	s.comesUp(`GenerateDataKey tikv: ok`, keyDictWritten)
	s.atOnce()
	b, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	content, err := tikv.ParseKeyDict(b)
	if err != nil {
		t.Fatal(err)
	}
	if vendor, blob, ok := content.KMS(); !ok || vendor != "AWS" || len(blob) > 6144 {
		t.Errorf("key.dict is of %q with a blob of %d bytes", vendor, len(blob))
	}

	d.stop()
	s.rotate()
	s.went([]string{keyDictWritten})
	d.start()
	s.comesUp(`Decrypt tikv: ok`)
	s.atOnce()
	for _, keyID := range []string{"alias/tikv", "arn:aws:kms:us-east-1:000000000000:key/tikv"} {
		s.master = d.masterKey(keyID)
		s.comesUp(`Decrypt ` + keyID + `: ok`)
	}
}

// TestTiKVOutage: while no KMS answers, a store starts by what the broker remembers. If
// that has been restarted too, the store waits and comes up when a KMS does.
func TestTiKVOutage(t *testing.T) {
	t.Parallel()
	vault, aws, google := newRemotes(t)
	all := []*remote{vault, aws, google}
	d := newAWSDoor(t, backendsOf(all...), "  tikv: {recipients: "+listOf(all...)+"}")
	d.start()
	s := newTiKV(t, d.masterKey("tikv"))
	s.comesUp(`GenerateDataKey tikv: ok`, keyDictWritten)

	for _, r := range all {
		r.link.refuse()
	}
	s.comesUp(`Decrypt tikv: ok`)
	s.atOnce()

	d.stop()
	d.start()
	const outage = 90 * time.Second
	s.clock.during = func(passed time.Duration) {
		if passed < outage {
			return
		}
		s.clock.during = nil
		for _, r := range all {
			r.link.accept()
		}
	}
	s.comesUp(`Decrypt tikv: again after ApiInternal\(KMSInternalException\)(, ApiTimeout\(DependencyTimeoutException\))?; ok`)
	c := s.calls[0]
	// At 95 s comes the eighth try. The broker tries the KMSs again a second of this
	// machine's after they failed, so it may be the next.
	if c.slept < outage || c.slept > outage+3*(tikvLongest+time.Second) {
		t.Errorf("the outage was %v, and the store came up after %v", outage, c.slept)
	}
	t.Logf("%d tries, %d requests, %v in the store's time", len(c.failed)+1, c.requests, c.slept)
	s.comesUp(`Decrypt tikv: ok`)
}

// TestTiKVWaits: a broker that is not there is waited for, and one that never comes is
// taken for a wrong key, after the minutes and requests that TiKV has for it.
func TestTiKVWaits(t *testing.T) {
	t.Parallel()
	later := func(d *awsDoor, s *tikvStore) {
		s.clock.during = func(passed time.Duration) {
			if passed >= 20*time.Second {
				s.clock.during = nil
				d.start()
			}
		}
	}
	for name, tt := range map[string]func(t *testing.T){
		"first start before the broker's": func(t *testing.T) {
			d := newFileDoor(t, "tikv")
			s := newTiKV(t, d.masterKey("tikv"))
			later(d, s)
			s.comesUp(`GenerateDataKey tikv: again after ApiTimeout; ok`, keyDictWritten)
		},
		"restart before the broker's": func(t *testing.T) {
			d := newFileDoor(t, "tikv")
			d.start()
			s := newTiKV(t, d.masterKey("tikv"))
			s.comesUp(`GenerateDataKey tikv: ok`, keyDictWritten)
			d.stop()
			later(d, s)
			s.comesUp(`Decrypt tikv: again after ApiTimeout; ok`)
		},
		"no broker": func(t *testing.T) {
			d := newFileDoor(t, "tikv")
			d.start()
			s := newTiKV(t, d.masterKey("tikv"))
			s.clock.divisor = 200
			s.comesUp(`GenerateDataKey tikv: ok`, keyDictWritten)
			d.stop()
			s.fails(errBothMasterKeyFail, `Decrypt tikv: again after ApiTimeout; ApiTimeout as WrongMasterKey`)
			s.patient(sdkAttempts)
			d.start()
			s.comesUp(`Decrypt tikv: ok`)
		},
		"a broker that hangs": func(t *testing.T) {
			d := newFileDoor(t, "tikv")
			d.start()
			l := newLink(t, d.address)
			m := d.masterKey("tikv")
			m.endpoint = "http://" + l.address()
			s := newTiKV(t, m)
			s.comesUp(`GenerateDataKey tikv: ok`, keyDictWritten)
			l.hang()
			s.clock.divisor = 200
			s.attempt = tikvAttempt / s.clock.divisor
			s.fails(errBothMasterKeyFail, `Decrypt tikv: again after Other; Other as WrongMasterKey`)
			s.patient(1)
			l.clear()
			s.attempt = tikvAttempt
			s.comesUp(`Decrypt tikv: ok`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt(t)
		})
	}
}

// patient holds that the last start's only call was tried for as long as TiKV tries,
// each time with so many requests.
func (s *tikvStore) patient(requests int64) {
	s.t.Helper()
	const least, most = 319 * time.Second, 333 * time.Second
	c := s.calls[0]
	if len(c.failed) != tikvRetries+1 || c.requests != requests*(tikvRetries+1) || c.slept < least || c.slept > most {
		s.t.Errorf("%d tries, %d requests, %v between them; want %d tries of %d requests, and %v to %v",
			len(c.failed), c.requests, c.slept, tikvRetries+1, requests, least, most)
	}
}

// TestTiKVChangesMasterKey: into the broker, from key to key in it, and out again.
// What is opened by the former master key is wrapped by the new one, once.
func TestTiKVChangesMasterKey(t *testing.T) {
	t.Parallel()
	d := newFileDoor(t, "old", "new")
	d.start()
	file := fileKey(t)
	for name, tt := range map[string]struct {
		from, to masterKey
		// first are the steps of the first start, then those of the one that changes
		// the master key, and after those of all later ones.
		first, then, after []string
		// back are those of a start with the former master key alone.
		back []string
	}{
		"file to broker": {
			file, d.masterKey("new"), []string{keyDictWritten},
			[]string{`GenerateDataKey new: ok`, keyDictWritten}, []string{`Decrypt new: ok`}, nil,
		},
		"broker key to broker key": {
			d.masterKey("old"), d.masterKey("new"), []string{`GenerateDataKey old: ok`, keyDictWritten},
			[]string{`Decrypt new: WrongMasterKey\(IncorrectKeyException\)`, `Decrypt old: ok`, `GenerateDataKey new: ok`, keyDictWritten},
			[]string{`Decrypt new: ok`}, []string{`Decrypt old: WrongMasterKey\(IncorrectKeyException\)`},
		},
		"broker to file": {
			d.masterKey("old"), file, []string{`GenerateDataKey old: ok`, keyDictWritten},
			[]string{`Decrypt old: ok`, keyDictWritten}, nil, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTiKV(t, tt.from)
			s.comesUp(tt.first...)
			s.master, s.previous = tt.to, tt.from
			s.comesUp(tt.then...)
			s.atOnce()
			s.comesUp(tt.after...) // the previous one does no harm
			s.previous = masterKey{}
			s.comesUp(tt.after...)
			s.master = tt.from
			s.fails(errBothMasterKeyFail, tt.back...)
		})
	}
}

// TestTiKVLeavesAWS: a store that used AWS KMS itself goes through the broker under the
// same key id, and back; or takes a key of the broker's, and AWS is not needed again.
func TestTiKVLeavesAWS(t *testing.T) {
	t.Parallel()
	m := startMoto(t)
	r := newAWS(t, m)
	local, _ := fileBackend(t)
	keys := localKeys("fresh") + "  kept: {recipients: [{backend: local, key: main}], passthrough: {backend: aws, key: " + r.key + "}}\n"
	d := newAWSDoor(t, local+"\n"+r.config, keys)
	d.start()
	id := r.key[strings.LastIndex(r.key, "/")+1:]
	direct := masterKey{
		kind: kindKMS, keyID: id, endpoint: "http://" + m.address, region: awsRegion,
		accessKey: awsAccessKey, secret: awsSecretKey,
	}

	t.Run("as it is", func(t *testing.T) {
		s := newTiKV(t, direct)
		s.comesUp(`GenerateDataKey `+id+`: ok`, keyDictWritten)
		before, err := os.ReadFile(s.path())
		if err != nil {
			t.Fatal(err)
		}
		for _, keyID := range []string{id, r.key} {
			s.master = d.masterKey(keyID)
			asked := r.asked()
			s.comesUp(`Decrypt ` + keyID + `: ok`)
			s.atOnce()
			if r.asked() == asked {
				t.Error("AWS was not asked")
			}
		}
		r.link.refuse()
		s.clock.during = func(time.Duration) { s.clock.during = nil; r.link.accept() }
		s.comesUp(`Decrypt ` + r.key + `: again after ApiInternal\(KMSInternalException\); ok`)
		// What is made new, such as the key of a log backup, is the broker's, and AWS is
		// not asked for it.
		backup := newTiKV(t, d.masterKey(id))
		asked := r.asked()
		backup.comesUp(`GenerateDataKey `+id+`: ok`, keyDictWritten)
		backup.comesUp(`Decrypt ` + id + `: ok`)
		if r.asked() != asked {
			t.Error("AWS was asked")
		}
		s.master = direct
		s.comesUp(`Decrypt ` + id + `: ok`)
		if after, err := os.ReadFile(s.path()); err != nil || string(after) != string(before) {
			t.Errorf("key.dict was written anew: %v", err)
		}
	})
	t.Run("wrapped anew", func(t *testing.T) {
		s := newTiKV(t, direct)
		s.comesUp(`GenerateDataKey `+id+`: ok`, keyDictWritten)
		s.master, s.previous = d.masterKey("kept"), direct
		s.comesUp(`Decrypt kept: ok`) // it is handed on, and so never taken
		s.master = d.masterKey("fresh")
		s.comesUp(`Decrypt fresh: WrongMasterKey\(IncorrectKeyException\)`, `Decrypt `+id+`: ok`, `GenerateDataKey fresh: ok`, keyDictWritten)
		s.atOnce()
		asked := r.asked()
		s.comesUp(`Decrypt fresh: ok`)
		if r.asked() != asked {
			t.Error("AWS is asked after the store has left it")
		}
	})
}

// TestTiKVRolling: three stores, each beside its own broker, change from one key to
// another, one after the other. All others start meanwhile with whichever they have.
func TestTiKVRolling(t *testing.T) {
	t.Parallel()
	local, _ := fileBackend(t)
	var doors [3]*awsDoor
	var stores [3]*tikvStore
	for i := range stores {
		doors[i] = newAWSDoor(t, local, localKeys("old"))
		doors[i].start()
		stores[i] = newTiKV(t, doors[i].masterKey("old"))
		stores[i].comesUp(`GenerateDataKey old: ok`, keyDictWritten)
	}
	for _, d := range doors {
		d.configure(local, localKeys("old", "new"))
		d.mustCLI("reload")
	}
	for i, s := range stores {
		s.master, s.previous = doors[i].masterKey("new"), doors[i].masterKey("old")
		s.comesUp(`Decrypt new: WrongMasterKey\(IncorrectKeyException\)`, `Decrypt old: ok`, `GenerateDataKey new: ok`, keyDictWritten)
		s.atOnce()
		for j, other := range stores {
			key := "old"
			if j <= i {
				key = "new"
			}
			other.comesUp(`Decrypt ` + key + `: ok`)
		}
	}
	for i, d := range doors {
		d.stop()
		d.configure(local, localKeys("new"))
		d.start()
		stores[i].previous = masterKey{}
		stores[i].comesUp(`Decrypt new: ok`)
	}
	// A store opens by any broker that has the key: brokers keep nothing of their own.
	stores[0].master = doors[1].masterKey("new")
	stores[0].comesUp(`Decrypt new: ok`)
}

// TestTiKVRefused: what is definite ends a start at once, at the first and at a later
// one, and is no reason to wait for minutes.
func TestTiKVRefused(t *testing.T) {
	t.Parallel()
	v := startVault(t)
	vault := newVault(t, v, "tikv")
	d := newAWSDoor(t, vault.config, "  tikv: {recipients: "+listOf(vault)+"}")
	d.start()
	for name, tt := range map[string]struct {
		change          func(*masterKey)
		generate, again string
	}{
		"wrong secret": {
			func(m *masterKey) { m.secret = strings.ToUpper(m.secret) },
			`KmsError::Other\(InvalidSignatureException\)`, `KmsError::Other\(InvalidSignatureException\) as WrongMasterKey`,
		},
		"unknown access key": {
			func(m *masterKey) { m.accessKey = awsAccessKey },
			`KmsError::Other\(UnrecognizedClientException\)`, `KmsError::Other\(UnrecognizedClientException\) as WrongMasterKey`,
		},
		"another user's access key": {
			func(m *masterKey) { m.accessKey = neighbourAccessKey },
			`KmsError::Other\(UnrecognizedClientException\)`, `KmsError::Other\(UnrecognizedClientException\) as WrongMasterKey`,
		},
		"key unknown": {
			func(m *masterKey) { m.keyID = "nosuch" },
			`ApiNotFound\(NotFoundException\)`, `WrongMasterKey\(NotFoundException\)`,
		},
		"policy denies": {
			func(m *masterKey) { m.accessKey, m.secret = outsiderAccessKey, outsiderSecret },
			`KmsError::Other\(AccessDeniedException\)`, `KmsError::Other\(AccessDeniedException\) as WrongMasterKey`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := d.masterKey("tikv")
			tt.change(&bad)
			fresh := newTiKV(t, bad)
			fresh.fails(nil, `GenerateDataKey `+bad.keyID+`: `+tt.generate)
			fresh.atOnce()
			s := newTiKV(t, d.masterKey("tikv"))
			s.comesUp(`GenerateDataKey tikv: ok`, keyDictWritten)
			s.master = bad
			s.fails(errBothMasterKeyFail, `Decrypt `+bad.keyID+`: `+tt.again)
			s.atOnce()
			s.master = d.masterKey("tikv")
			s.comesUp(`Decrypt tikv: ok`)
		})
	}
	t.Run("master key disabled", func(t *testing.T) {
		s := newTiKV(t, d.masterKey("tikv"))
		s.comesUp(`GenerateDataKey tikv: ok`, keyDictWritten)
		v.rotate("tikv")
		v.minDecryption("tikv", 2)
		d.purgeByForce("tikv")
		s.fails(errBothMasterKeyFail, `Decrypt tikv: KmsError::Other\(DisabledException\) as WrongMasterKey`)
		s.atOnce()
		v.minDecryption("tikv", 1)
		waitFor(t, "the key is usable again", func() bool { return s.start(t.Context()) == nil })
	})
	t.Run("another vendor", func(t *testing.T) {
		s := newTiKV(t, d.masterKey("tikv"))
		s.comesUp(`GenerateDataKey tikv: ok`, keyDictWritten)
		b, err := os.ReadFile(s.path())
		if err != nil {
			t.Fatal(err)
		}
		content, err := tikv.ParseKeyDict(b)
		if err != nil {
			t.Fatal(err)
		}
		content.Metadata[tikv.MetaKMSVendor] = []byte("gcp")
		if err := os.WriteFile(s.path(), content.KeyDict(), 0o600); err != nil {
			t.Fatal(err)
		}
		s.previous = d.masterKey("tikv")
		s.fails(nil)
	})
}

// TestTiKVBesideAnotherThatFails: a client of the same user that has failed so often that
// this user has to wait does not end a store's start. It waits, too.
func TestTiKVBesideAnotherThatFails(t *testing.T) {
	t.Parallel()
	d := newFileDoor(t, "tikv")
	d.start()
	s := newTiKV(t, d.masterKey("tikv"))
	s.comesUp(`GenerateDataKey tikv: ok`, keyDictWritten)
	wrong := d.caller()
	wrong.secret = outsiderSecret
	for limited := false; !limited; {
		switch a := (goSDK{}).do(t, wrong, awsRequest{opGenerate, map[string]any{"KeyId": "tikv"}}); a.Code {
		case "InvalidSignatureException":
		case "KMSInternalException":
			limited = true
		default:
			t.Fatalf("%+v", a)
		}
	}
	s.comesUp(`Decrypt tikv: (again after ApiInternal\(KMSInternalException\); )?ok`)
	t.Logf("%d tries, %v in the store's time", len(s.calls[0].failed)+1, s.calls[0].slept)
}
