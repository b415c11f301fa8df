package config

// What the documentation and the envelope are held to.
const (
	MaxRecipients   = maxRecipients
	MaxStaticPairs  = maxStaticPairs
	MaxContextBytes = maxContextBytes
	MaxIKPart       = maxIKPart
	IKPartFrame     = ikPartFrame
	LeastRecipient  = leastRecipient
	MaxMountPath    = maxMountPath
)

// SchemaKey is one key of a block of the schema.
type SchemaKey struct {
	Name            string
	Required, Later bool
	When            string
	In, Choices     []string
}

// Schema is the schema by block.
func Schema() map[string][]SchemaKey {
	blocks := map[string][]SchemaKey{}
	for name, entries := range schema() {
		for _, e := range entries {
			blocks[name] = append(blocks[name], SchemaKey{e.name, e.required, e.later, e.when, e.in, e.choices})
		}
	}
	return blocks
}
