package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"
	kongyaml "github.com/alecthomas/kong-yaml"

	"github.com/samecart/samecart/cmd/cartctl/api"
)

// Exit codes.
const (
	exitGood   = 0
	exitFailed = 1
	exitUsage  = 2
)

// globals are the flags of every command.
type globals struct {
	JSON   bool            `name:"json" help:"Print one JSON object on one line, last on standard output."`
	Addr   string          `help:"Address of a region, or of the one that picks a region." default:"http://127.0.0.1:8080" env:"SAMECART_ADDR" placeholder:"URL"`
	Token  string          `help:"Bearer token, or the file that has it." env:"SAMECART_TOKEN" placeholder:"FILE|TOKEN"`
	Config kong.ConfigFlag `help:"YAML file with defaults for flags." env:"SAMECART_CONFIG" placeholder:"FILE"`
}

// cli is the grammar: flags, environment variables and file keys come from it.
type cli struct {
	globals

	Get    getCmd    `cmd:"" help:"Show a cart." group:"One cart"`
	Add    addCmd    `cmd:"" help:"Add a quantity of a SKU." group:"One cart"`
	Set    setCmd    `cmd:"" help:"Set the quantity of a line; 0 removes it." group:"One cart"`
	Remove removeCmd `cmd:"" help:"Remove a line." group:"One cart"`
	Clear  clearCmd  `cmd:"" help:"Remove all lines." group:"One cart"`
	Save   saveCmd   `cmd:"" help:"Put a line aside for later." group:"One cart"`
	Move   moveCmd   `cmd:"" help:"Put a saved line back into the cart." group:"One cart"`
	Note   noteCmd   `cmd:"" help:"Replace the attributes of a line, such as its gift note." group:"One cart"`
	Undo   undoCmd   `cmd:"" help:"Undo the last remove, clear or merge." group:"One cart"`
	Export exportCmd `cmd:"" help:"Show all that is kept of a shopper." group:"One cart"`
	Erase  eraseCmd  `cmd:"" help:"Erase a shopper's cart in all regions, for good." group:"One cart"`

	Promotion promotionCmd `cmd:"" help:"Put a promotion code into a cart, or take it out." group:"One cart"`
	Explain   explainCmd   `cmd:"" help:"Show the surviving writes behind every line." group:"One cart"`

	Merge        mergeCmd        `cmd:"" help:"Merge a guest's cart into a user's, as a login does." group:"One cart"`
	GuestSession guestSessionCmd `cmd:"" help:"Make a guest session." group:"One cart"`

	Settings settingsCmd `cmd:"" help:"Show and change the shop's settings." group:"Cluster"`
	Shipping shippingCmd `cmd:"" help:"Estimate cost and dates of sending the cart." group:"One cart"`

	Share shareCmd `cmd:"" help:"Share a cart by a link; look at one, and copy it." group:"One cart"`

	Redeem redeemCmd `cmd:"" help:"Use a code of limited uses once." group:"One cart"`
	Limit  limitCmd  `cmd:"" help:"Set and show how often a code may be used." group:"Cluster"`

	Regions regionsCmd `cmd:"" help:"Show regions, nodes, links and lag." group:"Cluster"`
	Verify  verifyCmd  `cmd:"" help:"Compare every cart in every region." group:"Cluster"`
	Backup  backupCmd  `cmd:"" help:"Back up a region; list and check backups." group:"Cluster"`
	Restore restoreCmd `cmd:"" help:"Join a backup with a region's carts: what was removed since stays removed." group:"Cluster"`
	Catalog catalogCmd `cmd:"" help:"Change products of cartd dev's catalogue." group:"Cluster"`
	Link    linkCmd    `cmd:"" help:"Cut, heal or delay the link of two regions." group:"Faults"`
	Node    nodeCmd    `cmd:"" help:"Kill or start a node, or set its clock." group:"Faults"`
	Region  regionCmd  `cmd:"" help:"Kill or start all nodes of a region." group:"Faults"`

	Replay replayCmd `cmd:"" help:"Replay real orders through all regions, and prove that nothing was lost." group:"Measure"`
	Drill  drillCmd  `cmd:"" help:"Make a failover drill under load and prove what is promised; 'drill list' names them." group:"Measure"`
	Bench  benchCmd  `cmd:"" help:"Measure calls against one address." group:"Measure"`

	Sign tokenCmd `cmd:"" name:"token" help:"Sign a token for a user, a guest or a service." group:"Keys"`
}

// usageError is wrong usage that only shows while the command runs.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// errDisproved ends a command whose result, already printed, is not good.
var errDisproved = errors.New("not proved")

// app is what commands run with.
type app struct {
	globals

	ctx            context.Context // of the one command that this process runs
	stdout, stderr io.Writer
	base           string // --addr as a URL
	addressed      bool   // --addr was given, in whatever way
	bearer         string
	http           *http.Client
}

func main() {
	// A replay or a benchmark often shares its machine with what it measures,
	// and holds little that is alive: memory is the cheaper of the two.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one kills: a clean-up that hangs must
	// not hold the terminal.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const gcPercent = 400

// exit is how kong's --help leaves the parser.
type exit int

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(exit)
			if !ok {
				panic(r)
			}
			code = int(e)
		}
	}()
	var c cli
	parser := kong.Must(&c,
		kong.Name("cartctl"),
		kong.Description("Edit carts, cut links, and prove that all regions hold the same."),
		kong.Configuration(kongyaml.Loader),
		kong.Vars{"address": addressHelp},
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { panic(exit(code)) }),
	)
	parsed, err := parser.Parse(args)
	if err != nil {
		return fail(wantsJSON(c, args), usageError{err}, stdout, stderr)
	}
	a := &app{globals: c.globals, ctx: ctx, stdout: stdout, stderr: stderr, addressed: given(parsed, "addr")}
	if err := a.open(); err != nil {
		return fail(c.JSON, usageError{err}, stdout, stderr)
	}
	defer a.http.CloseIdleConnections()
	err = parsed.Run(a)
	if addr, ok := api.Unreachable(err); ok {
		if addr == "" {
			addr = a.base
		}
		err = fmt.Errorf("nothing answers at %s: start the server with `make run` (cartd dev), or name another with --addr or SAMECART_ADDR: %w", addr, err)
	}
	return fail(c.JSON, err, stdout, stderr)
}

// given reports whether a flag has a value that is not its default: from the
// command line, the environment or the file.
func given(parsed *kong.Context, name string) bool {
	for _, flag := range parsed.Flags() {
		if flag.Name == name {
			_, env := os.LookupEnv(flag.Envs[0])
			return env || slices.ContainsFunc(parsed.Path, func(p *kong.Path) bool { return p.Flag != nil && p.Flag.Name == name }) || fmt.Sprint(flag.Target.Interface()) != flag.Default
		}
	}
	return false
}

// wantsJSON also looks at arguments that the parser may not have come to.
func wantsJSON(c cli, args []string) bool {
	for _, arg := range args {
		if arg == "--json" || arg == "--json=true" {
			return true
		}
	}
	return c.JSON
}

// fail prints err, where there is one, and returns the exit code for it.
func fail(asJSON bool, err error, stdout, stderr io.Writer) int {
	if err == nil {
		return exitGood
	}
	if errors.Is(err, errDisproved) {
		return exitFailed // the result says why
	}
	code, described := exitFailed, api.Describe(err)
	var usage usageError
	if errors.As(err, &usage) {
		code, described = exitUsage, &api.Error{Code: "USAGE", Message: err.Error()}
	}
	if _, ok := api.Unreachable(err); ok {
		described = &api.Error{Code: "UNREACHABLE", Message: err.Error()}
	}
	message := err.Error()
	if described.Code != "CLIENT" && described.Code != "USAGE" && described.Code != "UNREACHABLE" {
		message = described.Error()
	}
	_, _ = fmt.Fprintf(stderr, "cartctl: %s\n", message) // nowhere to report to
	if code == exitUsage {
		_, _ = fmt.Fprintln(stderr, "Run cartctl --help, or cartctl COMMAND --help.")
	}
	if asJSON {
		line, err := json.Marshal(map[string]any{"error": described})
		if err == nil {
			_, _ = fmt.Fprintf(stdout, "%s\n", line)
		}
	}
	return code
}

// open checks the globals and makes the HTTP client.
func (a *app) open() error {
	var err error
	if a.base, err = api.BaseURL(a.Addr); err != nil {
		return err
	}
	if a.bearer, err = readToken(a.Token); err != nil {
		return err
	}
	a.http = api.NewHTTPClient(connections)
	return nil
}

// connections is how many idle connections are kept to each server: more than
// any sensible --clients.
const connections = 1024

// readToken returns the token that s is, or that the file of that name holds.
func readToken(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	content, err := os.ReadFile(s)
	switch {
	case err == nil:
		return strings.TrimSpace(string(content)), nil
	case strings.Count(s, ".") == 2 && !strings.ContainsAny(s, "/\\ "):
		return s, nil // a JWT, no file
	default:
		return "", fmt.Errorf("token: it is neither a JWT nor a file that can be read: %w", err)
	}
}

// admin is the identity for calls of the admin service.
func (a *app) admin() api.Identity {
	return api.Identity{Scopes: "admin", Bearer: a.bearer}
}

// regions asks --addr for the regions.
func (a *app) regions() ([]api.Region, error) {
	ctx, cancel := context.WithTimeout(a.ctx, 5*time.Second)
	defer cancel()
	return api.Regions(ctx, a.http, a.base, a.admin())
}

// print writes the object as JSON, or calls people for people.
func (a *app) print(object any, people func(w *tabwriter.Writer)) error {
	if a.JSON {
		var line bytes.Buffer
		encoder := json.NewEncoder(&line) // ends the line
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(object); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
		if _, err := a.stdout.Write(line.Bytes()); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	people(w)
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// row writes one row of a table.
func row(w *tabwriter.Writer, cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			_, _ = fmt.Fprint(w, "\t") // an error stays in w until Flush
		}
		_, _ = fmt.Fprint(w, cell)
	}
	_, _ = fmt.Fprintln(w)
}

// notef tells people what happens while a command runs.
func (a *app) notef(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, format+"\n", args...) // nowhere to report to
}
