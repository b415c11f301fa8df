package awsapi

import (
	"cmp"
	"context"
	"slices"

	"github.com/keybroker/keybroker/broker"
)

func describeKey(ctx context.Context, x *exchange, in *input) (*reply, *refusal) {
	name, err := x.keyOf("KeyId", in.keyID)
	if err != nil {
		return nil, x.refused(ctx, err)
	}
	info, failed := x.broker.Describe(ctx, x.call(), name)
	if failed != nil {
		return nil, told(failed)
	}
	return x.finish(ctx, in, info.Name != "", func() *reply {
		p := newReply()
		p.object("KeyMetadata", func() { x.metadata(p, info) })
		return p.end()
	})
}

// metadata is what AWS's tools show of a key. A broker key has no date of its own, but
// SDKs take one for granted: it is 1970.
func (x *exchange) metadata(p *reply, info broker.KeyInfo) {
	usable := info.State != broker.KeyUnavailable
	state := "Enabled"
	if !usable {
		state = "Unavailable"
	}
	p.string("AWSAccountId", x.names.account)
	p.string("KeyId", info.Name)
	p.string("Arn", x.names.keyARN(info.Name))
	p.number("CreationDate", 0)
	p.boolean("Enabled", usable)
	p.string("Description", "keybroker key "+info.Name)
	p.string("KeyUsage", "ENCRYPT_DECRYPT")
	p.string("KeyState", state)
	p.string("Origin", "AWS_KMS")
	p.string("KeyManager", "CUSTOMER")
	p.string("CustomerMasterKeySpec", symmetric)
	p.string("KeySpec", symmetric)
	p.name("EncryptionAlgorithms")
	p.body = append(p.body, `["`+symmetric+`"]`...)
	p.boolean("MultiRegion", false)
}

func listKeys(ctx context.Context, x *exchange, in *input) (*reply, *refusal) {
	after, err := in.after(markKeys)
	if err != nil {
		return nil, x.refused(ctx, err)
	}
	infos, failed := x.broker.ListKeys(ctx, x.call())
	if failed != nil {
		return nil, told(failed)
	}
	page, more := pageOf(infos, func(k broker.KeyInfo) string { return k.Name }, after, in.limit)
	p := newReply()
	p.array("Keys", len(page), func(i int) {
		p.string("KeyId", page[i].Name)
		p.string("KeyArn", x.names.keyARN(page[i].Name))
	})
	if more {
		p.string("NextMarker", markKeys.after(page[len(page)-1].Name))
	}
	p.boolean("Truncated", more)
	return p.end(), nil
}

// alias is one alias of a key.
type alias struct{ name, key string }

func listAliases(ctx context.Context, x *exchange, in *input) (*reply, *refusal) {
	after, err := in.after(markAliases)
	if err != nil {
		return nil, x.refused(ctx, err)
	}
	infos, err := x.keys(ctx, in)
	if err != nil {
		return nil, err
	}
	var aliases []alias
	for _, info := range infos {
		for _, name := range info.Aliases {
			aliases = append(aliases, alias{name, info.Name})
		}
	}
	slices.SortFunc(aliases, func(a, b alias) int { return cmp.Compare(a.name, b.name) })
	page, more := pageOf(aliases, func(a alias) string { return a.name }, after, in.limit)
	p := newReply()
	p.array("Aliases", len(page), func(i int) {
		p.string("AliasName", aliasPrefix+page[i].name)
		p.string("AliasArn", x.names.arn(aliasPrefix+page[i].name))
		p.string("TargetKeyId", page[i].key)
	})
	if more {
		p.string("NextMarker", markAliases.after(page[len(page)-1].name))
	}
	p.boolean("Truncated", more)
	return p.end(), nil
}

// keys are those whose aliases are asked for: one, or all that the caller may list.
func (x *exchange) keys(ctx context.Context, in *input) ([]broker.KeyInfo, *refusal) {
	name, err := x.keyIfSaid("KeyId", in.keyID)
	if err != nil {
		return nil, x.refused(ctx, err)
	}
	if name == "" {
		infos, failed := x.broker.ListKeys(ctx, x.call())
		if failed != nil {
			return nil, told(failed)
		}
		return infos, nil
	}
	info, failed := x.broker.Describe(ctx, x.call(), name)
	if failed != nil {
		return nil, told(failed)
	}
	return []broker.KeyInfo{info}, nil
}
