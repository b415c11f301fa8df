package otlp

import (
	"context"
	"encoding/json"
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
)

// members are those of a record that become attributes, and what chains it.
type members struct {
	Time    time.Time
	Event   string
	Outcome string
	Key     string
	Client  struct{ Name string }
	Log     string
	Prev    string
	Hash    string
}

// parse reads a record's line. Of one that is damaged it returns what it can: that
// it is wrong is the verifier's to say.
func parse(line []byte) members {
	var m members
	_ = json.Unmarshal(line, &m)
	return m
}

// follows tells whether the record, of number seq, can come after the one at c, of
// which others may be missing between.
func (m *members) follows(c cursor, seq uint64) bool {
	if seq == c.Seq+1 {
		return m.Prev == c.Hash
	}
	return m.Log == "" || m.Log == c.Log
}

// recordMaker makes the SDK's records, which only a logger of its provider makes. It
// is that provider's processor.
type recordMaker struct {
	logger log.Logger
	*taker
}

type taker struct{ taken []sdklog.Record }

func newRecordMaker(node, version string) recordMaker {
	t := &taker{}
	provider := sdklog.NewLoggerProvider(
		sdklog.WithProcessor(t),
		sdklog.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "keybroker"),
			attribute.String("service.instance.id", node),
			attribute.String("service.version", version),
		)),
		// Nothing in the environment may shorten a record.
		sdklog.WithAttributeCountLimit(maxAttributes),
		sdklog.WithAttributeValueLengthLimit(-1),
	)
	return recordMaker{provider.Logger("keybroker.audit"), t}
}

// maxAttributes is more than a record gets.
const maxAttributes = 16

func (t *taker) reset()     { t.taken = nil }
func (t *taker) count() int { return len(t.taken) }

// add makes the record of a line. Its body is the line as it stands, so that who has
// it can verify it.
func (r recordMaker) add(ctx context.Context, seq uint64, line []byte, m members, logID string) {
	var rec log.Record
	rec.SetTimestamp(m.Time)
	rec.SetEventName("keybroker.audit." + m.Event)
	rec.SetBody(attribute.StringValue(string(line)))
	switch m.Outcome {
	case "ok":
		rec.SetSeverity(log.SeverityInfo)
	case "denied":
		rec.SetSeverity(log.SeverityWarn)
	default:
		rec.SetSeverity(log.SeverityError)
	}
	rec.SetSeverityText(m.Outcome)
	rec.AddAttributes(attribute.Int64("seq", int64(min(seq, math.MaxInt64))))
	for _, a := range [...][2]string{
		{"hash", m.Hash}, {"log", logID}, {"event", m.Event}, {"outcome", m.Outcome}, {"client", m.Client.Name}, {"key", m.Key},
	} {
		if a[1] != "" {
			rec.AddAttributes(attribute.String(a[0], a[1]))
		}
	}
	r.logger.Emit(ctx, rec)
}

// OnEmit, Enabled, Shutdown and ForceFlush are a processor's.
func (t *taker) OnEmit(_ context.Context, r *sdklog.Record) error {
	t.taken = append(t.taken, r.Clone())
	return nil
}
func (*taker) Enabled(context.Context, sdklog.EnabledParameters) bool { return true }
func (*taker) Shutdown(context.Context) error                         { return nil }
func (*taker) ForceFlush(context.Context) error                       { return nil }
