package main

import (
	"fmt"
	"os"

	"github.com/godwit-mta/godwit/mta/dkim"
)

type dkimCmd struct {
	Generate dkimGenerateCmd `cmd:"" help:"Make a key pair: a private key file and the DNS record to publish."`
}

type dkimGenerateCmd struct {
	Domain    string `arg:"" help:"Signing domain, the d= of signatures."`
	Selector  string `arg:"" help:"Selector, the s= of signatures."`
	Algorithm string `default:"rsa2048" enum:"rsa2048,rsa4096,ed25519" help:"rsa2048, rsa4096 or ed25519."`
	Out       string `short:"o" required:"" type:"path" placeholder:"FILE" help:"Where to write the private key (mode 0600); an existing file is not overwritten."`
}

// Help teaches by example.
func (dkimGenerateCmd) Help() string {
	return `Example: two keys, because some receivers verify only RSA.
  godwit dkim generate example.com s2026 -o s2026.pem
  godwit dkim generate example.com s2026e --algorithm ed25519 -o s2026e.pem`
}

// Run makes one key.
func (c *dkimGenerateCmd) Run(e *env) error {
	key, err := dkim.Generate(c.Algorithm, c.Domain, c.Selector)
	if err != nil {
		return usageError{err}
	}
	f, err := os.OpenFile(c.Out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(key.Private); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(e.out, "private key: %s\n\npublish this record:\n%s\n\nand add to the configuration:\n[[dkim.keys]]\ndomain = %q\nselector = %q\nfile = %q\n",
		c.Out, key.Zone, c.Domain, c.Selector, c.Out)
	return err
}
