package watch

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// short rounds a time to what a reader can use.
func short(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// mostStalls is how many stalls a text lists.
const mostStalls = 20

// WriteText writes the report, for people. Times count from the start of the record.
func (rep *Report) WriteText(w io.Writer) error {
	total := time.Duration(0)
	for _, s := range rep.Stalls {
		total += s.Length()
	}
	fmt.Fprintf(w, "record from %s, run %v to %v; %d stalls of the provider, %v in all\n", rep.Start.UTC().Format(time.RFC3339Nano),
		short(rep.Run.From), short(rep.Run.To), len(rep.Stalls), short(total))
	for i, s := range rep.Stalls {
		if i == mostStalls {
			fmt.Fprintf(w, "  and %d more\n", len(rep.Stalls)-i)
			break
		}
		fmt.Fprintf(w, "  stall of %v at %v\n", short(s.Length()), short(s.From))
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "group\tMAILs\tnot\tuse\t1 s\tcertain\tallowed\texempt\tworst\t10 s\tallowed\topen\tallowed\tconns\tper conn\tsilence\t")
	for i := range rep.Groups {
		g := &rep.Groups[i]
		fmt.Fprintf(t, "%s\t%d\t%d\t%.1f %%\t%d\t%d\t%s\t%d of %d\t%d\t%d\t%s\t%d%s\t%s\t%d\t%d\t%v\t\n",
			g.Name, g.Mails, g.Not, 100*g.Use(), g.Second.Worst.N, g.Second.Certain.N, orNone(g.Limit.Rate, "%.0f", g.Limit.InSecond()),
			g.Second.Exempt, g.Second.Total, g.Second.ExemptWorst.N, g.Ten.Worst.N, orNone(g.Limit.Rate, "%.1f", g.Limit.InTen()),
			g.Open.N, inStall(g), orNone(float64(g.Limit.Connections), "%.0f", float64(g.Limit.Connections)),
			g.Conns, g.PerConn, short(g.Silence.Length()))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, f := range rep.Faults() {
		if _, err := fmt.Fprintln(w, "FAULT", f); err != nil {
			return err
		}
	}
	return nil
}

// inStall marks a number of connections that was counted while the provider stood still.
func inStall(g *Group) string {
	if g.OpenInStall {
		return "*"
	}
	return ""
}

func orNone(limit float64, format string, allowed float64) string {
	if limit <= 0 {
		return "-"
	}
	return fmt.Sprintf(format, allowed)
}
