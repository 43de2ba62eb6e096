package cache

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Form says how a Redis is deployed.
type Form string

// The forms of a Redis.
const (
	Single   Form = "single"
	Sentinel Form = "sentinel"
	Cluster  Form = "cluster"
)

// Address says where a Redis is and how to log in.
type Address struct {
	Form     Form
	Hosts    []string // host:port of the server, of the sentinels, or of some cluster nodes
	Master   string   // Sentinel only: the name under which sentinels watch the master
	DB       int      // Single and Sentinel only
	Username string   // of the data nodes; sentinels have their own, see Config
	Password string
	TLS      bool
}

const addressForms = `use "" (in-process), redis://[user:pass@]host:port[/db], ` +
	`redis+sentinel://[user:pass@]host:port,host:port/MASTER[/db] or ` +
	`redis+cluster://[user:pass@]host:port,host:port; rediss in place of redis means TLS`

// ParseAddress reads a Redis address in one of the forms that Open takes. Its
// errors name the value without its password.
func ParseAddress(addr string) (Address, error) {
	a, err := parseAddress(addr)
	if err != nil {
		return Address{}, fmt.Errorf("cache address %q: %w; %s", redact(addr), err, addressForms)
	}
	return a, nil
}

func parseAddress(addr string) (Address, error) {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		return Address{}, errors.New("no scheme")
	}
	var a Address
	base, kind, _ := strings.Cut(scheme, "+")
	switch base {
	case "redis":
	case "rediss":
		a.TLS = true
	default:
		return Address{}, fmt.Errorf("unknown scheme %q", scheme)
	}
	switch scheme[len(base):] {
	case "":
		a.Form = Single
	case "+sentinel", "+cluster":
		a.Form = Form(kind)
	default:
		return Address{}, fmt.Errorf("unknown scheme %q", scheme)
	}
	// The last @ ends the login: a password may hold one, a host may not.
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, pass, _ := strings.Cut(rest[:at], ":")
		var errUser, errPass error
		a.Username, errUser = url.PathUnescape(user)
		a.Password, errPass = url.PathUnescape(pass)
		if errUser != nil || errPass != nil {
			return Address{}, errors.New("user or password is not percent-encoded well") // their errors would show it
		}
		rest = rest[at+1:]
	}
	if strings.ContainsAny(rest, "?#") {
		return Address{}, errors.New("options are not part of the address")
	}
	hosts, path, _ := strings.Cut(rest, "/")
	for _, h := range strings.Split(hosts, ",") {
		if err := checkHost(h); err != nil {
			return Address{}, err
		}
		a.Hosts = append(a.Hosts, h)
	}
	return a, a.setPath(path)
}

// setPath takes what follows the hosts: [MASTER/][db].
func (a *Address) setPath(path string) error {
	switch a.Form {
	case Single:
		if len(a.Hosts) != 1 {
			return fmt.Errorf("%d hosts, a single Redis has one", len(a.Hosts))
		}
	case Sentinel:
		a.Master, path, _ = strings.Cut(path, "/")
		if a.Master == "" {
			return errors.New("no master name after the sentinels")
		}
	case Cluster:
		if path != "" {
			return fmt.Errorf("a cluster has no database, but %q follows the hosts", path)
		}
	}
	if path == "" {
		return nil
	}
	db, err := strconv.ParseUint(path, 10, 16)
	if err != nil {
		return fmt.Errorf("database %q is not a number from 0 to 65535", path)
	}
	a.DB = int(db)
	return nil
}

func checkHost(hostport string) error {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil || host == "" {
		return fmt.Errorf("%q is not host:port", hostport)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port %q of %q is not a number from 1 to 65535", port, hostport)
	}
	return nil
}

// redact hides the login of an address, well formed or not.
func redact(addr string) string {
	at := strings.LastIndexByte(addr, '@')
	if at < 0 {
		return addr
	}
	scheme, _, ok := strings.Cut(addr[:at], "://")
	if !ok {
		return "***" + addr[at:]
	}
	return scheme + "://***" + addr[at:]
}
