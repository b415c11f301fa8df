package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/tikv"
)

func newTiKVCommand(env *Env, opts *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tikv",
		Short: "Have TiKV and TiFlash take their master key from this broker",
		Long: `Have TiKV and TiFlash take their master key from this broker, which answers them as
AWS KMS would (listen.aws_kms). docs/tikv.md is the way in and out.`,
	}
	cmd.AddCommand(newTiKVConfigCommand(env, opts))
	return cmd
}

// tikvBroker is what of cfg concerns TiKV.
func tikvBroker(cfg *config.Config) tikv.Broker {
	b := tikv.Broker{Region: "us-east-1", Account: "000000000000"}
	if l := cfg.Listen.AWSKMS; l != nil {
		b.Region, b.Account = l.Region, l.Account
		b.Listen(l.Address, l.CertFile != "")
	}
	for _, k := range cfg.Keys {
		key := tikv.Key{Name: k.Name, Aliases: k.Aliases}
		if k.Passthrough != nil {
			key.Passthrough = k.Passthrough.Key
		}
		b.Keys = append(b.Keys, key)
	}
	for _, a := range cfg.AccessKeys {
		b.Clients = append(b.Clients, tikv.Client{Name: a.Client, AccessKeyID: a.ID, SecretFile: a.SecretFile, Lacks: clientLacks(cfg, a.Client)})
	}
	return b
}

// clientLacks returns the question which operations the client called name may not
// do with a key; nil if there is no such client.
func clientLacks(cfg *config.Config, name string) func(key string, operations ...string) []string {
	i := slices.IndexFunc(cfg.Clients, func(c policy.Client) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	rules := cfg.Clients[i].Allow
	return func(key string, operations ...string) []string {
		return slices.DeleteFunc(slices.Clone(operations), func(name string) bool {
			op, _ := policy.ParseOperation(name)
			return slices.ContainsFunc(rules, func(r policy.Rule) bool {
				return (slices.Contains(r.Keys, key) || slices.Contains(r.Keys, policy.AnyKey)) &&
					(slices.Contains(r.Operations, op) || slices.Contains(r.Operations, policy.Any))
			})
		})
	}
}

// readSecret returns the secret of an access key.
// The caller wipes it.
func readSecret(name string) (secret.Value, error) {
	b, err := config.ReadSecretKey(name)
	if err != nil {
		return secret.Value{}, err
	}
	return secret.NewValue(b), nil
}

// brokerFlags are those that say what is not in the configuration, or is another
// way from TiKV's host.
type brokerFlags struct {
	config, endpoint, region, accessKey, secretFile string
}

func (f *brokerFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.config, "config", "c", defaultConfig, "the broker's configuration `file`")
	flags.StringVar(&f.endpoint, "endpoint", "", "the `URL` by which TiKV reaches the broker; default: listen.aws_kms.address")
	flags.StringVar(&f.region, "region", "", "the broker's `region`; default: listen.aws_kms.region")
	flags.StringVar(&f.accessKey, "access-key", "", "the `ID` of an access key that the configuration does not have yet; with --secret-file")
	flags.StringVar(&f.secretFile, "secret-file", "", "the `file` with the secret of --access-key")
}

// load returns the broker of the configuration and the flags, of which --access-key
// is that of the client. The clients' secrets are in it, as far as they can be read;
// the caller wipes them.
func (f *brokerFlags) load(client string) (tikv.Broker, error) {
	if (f.accessKey == "") != (f.secretFile == "") {
		return tikv.Broker{}, usageError(errors.New("--access-key and --secret-file go together"))
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return tikv.Broker{}, configError(err)
	}
	b := tikvBroker(cfg)
	if f.endpoint != "" {
		if !strings.HasPrefix(f.endpoint, "http://") && !strings.HasPrefix(f.endpoint, "https://") {
			return tikv.Broker{}, usageError(fmt.Errorf("--endpoint %q has no scheme; want a URL such as http://127.0.0.1:7480", f.endpoint))
		}
		b.Endpoint = f.endpoint
	}
	if f.region != "" {
		b.Region = f.region
	}
	if b.Endpoint == "" {
		return tikv.Broker{}, configError(fmt.Errorf("%s has no listen.aws_kms, without which TiKV cannot ask; add `listen: {aws_kms: {address: 127.0.0.1:7480, region: us-east-1}}`, or give --endpoint", f.config))
	}
	if f.accessKey != "" {
		file, err := filepath.Abs(f.secretFile)
		if err != nil {
			return tikv.Broker{}, err
		}
		given := tikv.Client{Name: client, AccessKeyID: f.accessKey, SecretFile: file, Lacks: clientLacks(cfg, client)}
		if client == "" {
			given.Name = f.accessKey
		}
		b.Clients = slices.Insert(b.Clients, 0, given)
	}
	for i := range b.Clients {
		s, err := readSecret(b.Clients[i].SecretFile)
		if err != nil {
			if f.accessKey != "" && i == 0 {
				return tikv.Broker{}, usageError(err)
			}
			continue // whoever needs this one is told
		}
		b.Clients[i].Secret = s
	}
	return b, nil
}

func wipe(b tikv.Broker) {
	for _, c := range b.Clients {
		c.Secret.Wipe()
	}
}
