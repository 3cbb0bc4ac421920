package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/godwit-mta/godwit/internal/show"
	"github.com/godwit-mta/godwit/mta/adminapi"
)

type sqlCmd struct {
	adminFlags
	Query string `arg:"" optional:"" help:"One statement that reads; standard input without it."`
	Limit int    `default:"1000" placeholder:"N" help:"Most rows to print."`
	CSV   bool   `name:"csv" help:"Print CSV."`
}

// Help teaches by example.
func (sqlCmd) Help() string {
	return `Asks the warehouse of the running server; a second process cannot open its file.

Examples:
  godwit sql "select name, count(*) from events join metrics using (metric) group by 1 order by 2 desc"
  godwit sql "select local_start, count, uniques from aggregates('acme', 'Placed Order', 'day', dimension := '') order by 1"
  godwit sql --csv --limit 100000 < question.sql > answer.csv
  godwit sql "describe profiles"`
}

// Run asks and prints.
func (c *sqlCmd) Run(e *env) error {
	if c.Query == "" {
		b, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		if c.Query = strings.TrimSpace(string(b)); c.Query == "" {
			return usageError{fmt.Errorf("sql: no query: give it as an argument or on standard input")}
		}
	}
	a, err := c.client()
	if err != nil {
		return err
	}
	defer a.Close()
	out, err := a.SQL(e.ctx, adminapi.SQLRequest{Query: c.Query, Limit: c.Limit})
	if err != nil {
		return a.explain(err)
	}
	switch {
	case c.JSON:
		return show.JSON(e.out, out)
	case c.CSV:
		return writeCSV(e.out, out)
	}
	return c.table(e, out)
}

func (c *sqlCmd) table(e *env, out *adminapi.SQLResponse) error {
	t := &show.Table{Empty: "no rows"}
	for i, name := range out.Columns {
		right := strings.Contains(out.Types[i], "INT") || out.Types[i] == "DOUBLE" || strings.HasPrefix(out.Types[i], "DECIMAL")
		t.Columns = append(t.Columns, show.Column{Name: name, Right: right})
	}
	for _, row := range out.Rows {
		t.Add(texts(row)...)
	}
	p := show.New(e.out)
	p.Table(t)
	if out.Truncated {
		p.Printf("%s\n", p.Warn(fmt.Sprintf("only the first %d rows; --limit N for more", len(out.Rows))))
	}
	return nil
}

func writeCSV(w io.Writer, out *adminapi.SQLResponse) error {
	c := csv.NewWriter(w)
	if err := c.Write(out.Columns); err != nil {
		return err
	}
	for _, row := range out.Rows {
		if err := c.Write(texts(row)); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}

// texts are the values of a row as text; NULL is empty.
func texts(row adminapi.Values) []string {
	cells := make([]string, len(row))
	for i, v := range row {
		switch v := v.(type) {
		case nil:
		case string:
			cells[i] = show.Clean(v)
		default:
			b, err := json.Marshal(v)
			if err != nil {
				b = fmt.Append(nil, v)
			}
			cells[i] = string(b)
		}
	}
	return cells
}
