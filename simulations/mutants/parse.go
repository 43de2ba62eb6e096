package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// mutant is one planted bug, and the test that must find it.
type mutant struct {
	name  string
	story string   // what would go wrong, in a line
	file  string   // relative to the module, with slashes
	pkg   string   // ./path of the test's package
	test  string   // its name
	flags []string // of the build
	// survives says why no test can find it; empty: one must.
	survives string
	old, new string // whole lines
	line     int    // of the data file where it begins
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	testForm = regexp.MustCompile(`^Test\w*$`)
)

// parse reads a data file: see the comment that mutants.txt begins with. It
// reports all that is wrong with it at once.
func parse(text string) ([]mutant, error) {
	var p parser
	for i, line := range strings.Split(text, "\n") {
		p.line(i+1, line)
	}
	p.finish()
	return p.mutants, errors.Join(p.errs...)
}

type parser struct {
	mutants []mutant
	open    *mutant
	errs    []error
}

func (p *parser) fail(line int, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("line %d: %w", line, fmt.Errorf(format, args...)))
}

func (p *parser) line(n int, line string) {
	switch {
	case line == "":
		p.finish()
		return
	case p.open == nil && strings.HasPrefix(line, "#"):
		return
	case strings.HasPrefix(line, "mutant "):
		p.finish()
		p.open = &mutant{name: strings.TrimPrefix(line, "mutant "), line: n}
		return
	case p.open == nil:
		p.fail(n, "%q stands outside of a mutant: begin one with 'mutant NAME'", line)
		return
	}
	m := p.open
	switch text := line[1:] + "\n"; line[0] {
	case ' ':
		m.old, m.new = m.old+text, m.new+text
		return
	case '-':
		m.old += text
		return
	case '+':
		m.new += text
		return
	}
	key, value, _ := strings.Cut(line, ": ")
	switch key {
	case "story":
		p.once(n, key, &m.story, value)
	case "file":
		p.once(n, key, &m.file, value)
	case "test":
		pkg, test, _ := strings.Cut(value, " ")
		p.once(n, key, &m.pkg, pkg)
		m.test = test
	case "survives":
		p.once(n, key, &m.survives, value)
	case "flags":
		m.flags = append(m.flags, strings.Fields(value)...)
	default:
		p.fail(n, "%q is none of story, file, test, flags and survives, and does not start with -, + or a space", line)
	}
}

func (p *parser) once(n int, key string, field *string, value string) {
	if *field != "" {
		p.fail(n, "%s is given twice", key)
	}
	if *field = value; value == "" {
		p.fail(n, "%s is empty", key)
	}
}

// finish ends the mutant that is open.
func (p *parser) finish() {
	m := p.open
	if m == nil {
		return
	}
	p.open = nil
	wrong := func(bad bool, format string, args ...any) {
		if bad {
			p.fail(m.line, "mutant %q: %w", m.name, fmt.Errorf(format, args...))
		}
	}
	wrong(!nameForm.MatchString(m.name), "a name has small letters, digits and - in between")
	for _, before := range p.mutants {
		wrong(before.name == m.name, "it is there since line %d", before.line)
	}
	wrong(m.story == "", "no story")
	wrong(strings.Contains(m.story+m.survives, "|"), "a | would end a cell of the table")
	wrong(m.file == "" || !filepath.IsLocal(m.file), "file %q is none of the module's", m.file)
	wrong(!strings.HasPrefix(m.pkg, "./"), "package %q: give it as ./path", m.pkg)
	wrong(!testForm.MatchString(m.test), "test %q: give the name of one test function", m.test)
	wrong(m.old == "", "no line with - or a space says where to change the file")
	wrong(m.old == m.new, "it changes nothing")
	p.mutants = append(p.mutants, *m)
}

// errStale: the file is not what the mutant was made for.
var errStale = errors.New("it no longer applies")

// apply returns the mutant's file with the bug in it.
func (m mutant) apply(root string) (string, error) {
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.file)))
	if err != nil {
		return "", fmt.Errorf("%w: %w", errStale, err)
	}
	text, old := "\n"+string(b), "\n"+m.old // whole lines
	// Places may overlap, so that Count would miss one.
	at := strings.Index(text, old)
	switch {
	case at < 0:
		return "", fmt.Errorf("%w: %s does not have the old lines", errStale, m.file)
	case strings.Contains(text[at+1:], old):
		return "", fmt.Errorf("%w: %s has the old lines more than once, add some around them", errStale, m.file)
	}
	return text[1:at+1] + m.new + text[at+len(old):], nil
}

// tests returns the text of all test files of a package.
func tests(root, pkg string) (string, error) {
	files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pkg), "*_test.go"))
	if err != nil {
		return "", err
	}
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		all.Write(b)
	}
	return all.String(), nil
}

// hasTest reports whether the mutant's package has its test.
func (m mutant) hasTest(root string) error {
	text, err := tests(root, m.pkg)
	if err == nil && !strings.Contains(text, "\nfunc "+m.test+"(") {
		err = fmt.Errorf("%s has no test %s", m.pkg, m.test)
	}
	return err
}
