package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// In an outage an operator asks what each backend's end would take, and when.
func TestStatusTellsHowLongItGoesOnWithoutEachBackend(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	recipient := func(backend string, state keybrokerv1.RecipientState) *keybrokerv1.Recipient {
		return &keybrokerv1.Recipient{Provider: "p", KeyRef: "k", Backend: backend, State: state}
	}
	const usable, away = keybrokerv1.RecipientState_RECIPIENT_STATE_USABLE, keybrokerv1.RecipientState_RECIPIENT_STATE_UNREACHABLE
	cachedFor := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }
	s := &keybrokerv1.GetStatusResponse{
		Backends: []*keybrokerv1.BackendStatus{{Name: "alone"}, {Name: "one-of-two"}, {Name: "the-other-is-away"}, {Name: "uncached"}, {Name: "unused"}},
		Keys: []*keybrokerv1.KeyInfo{
			{Name: "long", Recipients: []*keybrokerv1.Recipient{recipient("alone", usable)}, StaleUntil: cachedFor(50 * time.Hour)},
			{Name: "short", Recipients: []*keybrokerv1.Recipient{recipient("alone", usable)}, StaleUntil: cachedFor(3 * time.Hour)},
			{Name: "two", Recipients: []*keybrokerv1.Recipient{recipient("one-of-two", usable), recipient("alone", usable)}, StaleUntil: cachedFor(time.Hour)},
			{Name: "half", Recipients: []*keybrokerv1.Recipient{recipient("the-other-is-away", usable), recipient("gone", away)}, StaleUntil: cachedFor(9 * time.Hour)},
			{Name: "none", Recipients: []*keybrokerv1.Recipient{recipient("uncached", usable)}},
		},
	}
	var out bytes.Buffer
	if err := printStatus(&out, s, now, false); err != nil {
		t.Fatal(err)
	}
	for backend, want := range map[string]string{
		"alone": "3h0m (short)", "one-of-two": "goes on", "the-other-is-away": "9h0m (half)", "uncached": "nothing (none)", "unused": "-",
	} {
		found := false
		for line := range strings.Lines(out.String()) {
			if fields := strings.Fields(line); len(fields) > 0 && fields[0] == backend && strings.Contains(line, want) {
				found = true
			}
		}
		if !found {
			t.Errorf("%s: want %q in\n%s", backend, want, &out)
		}
	}
}
