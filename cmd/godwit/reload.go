package main

import (
	"fmt"

	"github.com/godwit-mta/godwit/internal/show"
)

type reloadCmd struct{ adminFlags }

// Help teaches by example.
func (reloadCmd) Help() string {
	return `The server reads its own configuration file, as after SIGHUP. A file with a mistake is
refused and the old configuration stays in force. No connection is dropped.

Example:
  godwit config check godwit.toml && godwit reload`
}

// Run asks the server to reload.
func (c *reloadCmd) Run(e *env) error {
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	info, err := a.Reload(e.ctx)
	if err != nil {
		return a.explain(err)
	}
	if c.JSON {
		return show.JSON(e.out, info)
	}
	_, err = fmt.Fprintf(e.out, "configuration %s taken (digest %s)\n", info.ConfigFile, info.ConfigDigest)
	return err
}
