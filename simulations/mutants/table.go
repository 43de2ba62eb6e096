package main

import (
	"fmt"
	"os"
	"strings"
)

// The table stands between these lines.
const (
	tableBegin = "<!-- table -->"
	tableEnd   = "<!-- end of table -->"
)

// table shows verdicts in Markdown.
func table(verdicts []verdict) string {
	var b strings.Builder
	b.WriteString("| mutant | what a shopper would see | killed by | s |\n|---|---|---|---|\n")
	for _, v := range verdicts {
		by := "`" + v.test + "` in " + strings.TrimPrefix(v.pkg, "./")
		switch {
		case v.err != nil:
			first, _, _ := strings.Cut(v.String(), "\n")
			by = "**" + strings.ReplaceAll(first, "|", "/") + "**"
		case !v.killed && v.survives != "":
			by = "survives: " + v.survives
		case !v.killed:
			by = "**nobody**, not even " + by
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %.0f |\n", v.name, v.story, by, v.took.Seconds())
	}
	return b.String()
}

// rewrite puts a table in the place of the one that a file has.
func rewrite(path, table string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), tableBegin+"\n")
	_, after, ok2 := strings.Cut(rest, tableEnd+"\n")
	if !ok || !ok2 {
		return fmt.Errorf("%s has no line %q, or none %q after it", path, tableBegin, tableEnd)
	}
	return os.WriteFile(path, []byte(before+tableBegin+"\n"+table+tableEnd+"\n"+after), 0o644)
}
