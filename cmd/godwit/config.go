package main

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/godwit-mta/godwit/config"
	"github.com/godwit-mta/godwit/internal/passwd"
)

type configCmd struct {
	Check        configCheckCmd     `cmd:"" help:"Check a file: every mistake with its line, column and the nearest known key."`
	Defaults     configDefaultsCmd  `cmd:"" help:"Print a complete file: every key with its default and meaning."`
	Reference    configReferenceCmd `cmd:"" help:"Print the reference page (Markdown)."`
	HashPassword hashPasswordCmd    `cmd:"" help:"Hash a password for smtp.users."`
	NewKey       newKeyCmd          `cmd:"" help:"Make an API key and print it with its hash for the configuration."`
}

type configCheckCmd struct {
	File string `arg:"" type:"existingfile" help:"Configuration file."`
}

// Run checks one file.
func (c *configCheckCmd) Run(e *env) error {
	f, err := config.Load(c.File)
	if err != nil {
		return usageError{err}
	}
	fmt.Fprintf(e.out, "%s is fine (digest %s)\n", c.File, f.Digest())
	return nil
}

type configDefaultsCmd struct{}

// Run prints the annotated defaults.
func (configDefaultsCmd) Run(e *env) error {
	_, err := fmt.Fprint(e.out, config.Annotated())
	return err
}

type configReferenceCmd struct{}

// Run prints the reference page.
func (configReferenceCmd) Run(e *env) error {
	_, err := fmt.Fprint(e.out, config.Reference())
	return err
}

type hashPasswordCmd struct{}

// Help teaches by example.
func (hashPasswordCmd) Help() string {
	return `Reads the password from the terminal without echo, or one line of standard input.

Example:
  printf '%s\n' "$PASSWORD" | godwit config hash-password`
}

// Run hashes one password; it never takes it as an argument, where others could see it.
func (hashPasswordCmd) Run(e *env) error {
	password, err := readPassword(e)
	if err != nil {
		return err
	}
	hash, err := passwd.Hash(password)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.out, hash)
	return err
}

func readPassword(e *env) (string, error) {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprint(e.errOut, "Password: ")
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(e.errOut)
		return string(b), err
	}
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.Join(usageError{errors.New("no password on standard input")}, err)
	}
	return line, nil
}

type newKeyCmd struct{}

// Run makes one key of 256 random bits.
func (newKeyCmd) Run(e *env) error {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails since Go 1.24
	key := base64.RawURLEncoding.EncodeToString(raw[:])
	sum := sha256.Sum256([]byte(key))
	_, err := fmt.Fprintf(e.out, "key (give it to the client, it is not stored):\n  %s\nsha256 (for the configuration):\n  %s\n", key, hex.EncodeToString(sum[:]))
	return err
}
