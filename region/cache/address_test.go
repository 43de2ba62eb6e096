package cache

import (
	"crypto/tls"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestParseAddress(t *testing.T) {
	for addr, want := range map[string]Address{
		"redis://h:6379":                       {Form: Single, Hosts: []string{"h:6379"}},
		"redis://h:6379/":                      {Form: Single, Hosts: []string{"h:6379"}},
		"redis://[::1]:6379/3":                 {Form: Single, Hosts: []string{"[::1]:6379"}, DB: 3},
		"redis://u:p%40s@h:1/2":                {Form: Single, Hosts: []string{"h:1"}, Username: "u", Password: "p@s", DB: 2},
		"redis://:p@s:x@h:1":                   {Form: Single, Hosts: []string{"h:1"}, Password: "p@s:x"},
		"rediss://h:1":                         {Form: Single, Hosts: []string{"h:1"}, TLS: true},
		"redis+sentinel://a:1,b:2/main":        {Form: Sentinel, Hosts: []string{"a:1", "b:2"}, Master: "main"},
		"rediss+sentinel://u:p@a:1,b:2/main/4": {Form: Sentinel, Hosts: []string{"a:1", "b:2"}, Master: "main", DB: 4, Username: "u", Password: "p", TLS: true},
		"redis+cluster://a:1":                  {Form: Cluster, Hosts: []string{"a:1"}},
		"redis+cluster://a:1,b:2,c:3":          {Form: Cluster, Hosts: []string{"a:1", "b:2", "c:3"}},
	} {
		if got, err := ParseAddress(addr); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", addr, got, err, want)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for addr, why := range map[string]string{
		"localhost:6379":               "no scheme",
		"http://h:1":                   `unknown scheme "http"`,
		"redis+ring://h:1":             `unknown scheme "redis+ring"`,
		"redis+://h:1":                 `unknown scheme "redis+"`,
		"redis://":                     `"" is not host:port`,
		"redis://h":                    `"h" is not host:port`,
		"redis://:6379":                `":6379" is not host:port`,
		"redis://h:0":                  `port "0"`,
		"redis://h:redis":              `port "redis"`,
		"redis://h:1,i:2":              "2 hosts",
		"redis://h:1/x":                `database "x"`,
		"redis://h:1/-1":               `database "-1"`,
		"redis://h:1?db=3":             "options",
		"redis://u:secret%zz@h:1":      "percent-encoded",
		"redis+sentinel://h:1":         "no master name",
		"redis+sentinel://h:1/m/x":     `database "x"`,
		"redis+cluster://h:1/0":        "no database",
		"redis+cluster://h:1,,i:2":     `"" is not host:port`,
		"redis+cluster://u:secret@h:x": `port "x"`,
		"u:secret@h":                   "no scheme",
	} {
		_, err := Open(addr, testConfig())
		if err == nil {
			t.Errorf("%s is taken", addr)
			continue
		}
		msg := err.Error()
		if !strings.Contains(msg, why) || !strings.Contains(msg, "redis+sentinel://") {
			t.Errorf("%s: error %q does not say %q and the forms", addr, msg, why)
		}
		if strings.Contains(msg, "secret") {
			t.Errorf("%s: error shows the password: %s", addr, msg)
		}
		if !strings.Contains(addr, "@") && !strings.Contains(msg, `"`+addr+`"`) {
			t.Errorf("%s: error %q does not name the value", addr, msg)
		}
	}
}

func TestOpenMemory(t *testing.T) {
	c, err := Open("", DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.(*memory); !ok {
		t.Errorf("got %T", c)
	}
	if _, err := Open("", Config{}); err == nil || !strings.Contains(err.Error(), "MemoryBytesMax is 0") {
		t.Errorf("zero config: %v", err)
	}
}

func TestConfigNamesEveryBadField(t *testing.T) {
	_, err := NewRedis(RedisConfig{})
	if err == nil {
		t.Fatal("the zero config is taken")
	}
	for _, field := range []string{"Prefix", "OpTimeout", "PoolSize", "TTL", "TombstoneTTL",
		"BreakerFailures", "BreakerRatio", "BreakerRequests", "BreakerWindow", "BreakerOpen", "hosts", "form"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q is not named in %q", field, err)
		}
	}
	for name, spoil := range map[string]func(*RedisConfig){
		"brace":       func(c *RedisConfig) { c.Prefix = "{eu}:" },
		"dialtimeout": func(c *RedisConfig) { c.DialTimeout = c.OpTimeout - 1 },
		"jitter":      func(c *RedisConfig) { c.TTLJitter = 0.6 },
		"master name": func(c *RedisConfig) { c.Address.Form = Sentinel },
		"tombstone":   func(c *RedisConfig) { c.TombstoneTTL = c.TTL + time.Second },
	} {
		cfg := RedisConfig{Config: testConfig(), Address: Address{Form: Single, Hosts: []string{"h:1"}}}
		spoil(&cfg)
		if _, err := NewRedis(cfg); err == nil || !strings.Contains(strings.ToLower(err.Error()), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClientOfEachForm(t *testing.T) {
	own := &tls.Config{ServerName: "cache", MinVersion: tls.VersionTLS13}
	cfg := testConfig()
	single := mustOpen(t, "rediss://h:1", cfg).client.(*redis.Client).Options()
	if single.TLSConfig == nil || single.TLSConfig.MinVersion != tls.VersionTLS12 {
		t.Error("no TLS 1.2 by default")
	}
	if !single.ContextTimeoutEnabled || single.MaxRetries != 0 || single.ReadTimeout != cfg.OpTimeout {
		t.Errorf("retries %d, read timeout %v", single.MaxRetries, single.ReadTimeout)
	}
	cfg.TLS = own
	if got := mustOpen(t, "rediss+cluster://h:1", cfg).client.(*redis.ClusterClient).Options().TLSConfig; got.ServerName != "cache" {
		t.Error("own TLS settings are ignored")
	}
	if _, ok := mustOpen(t, "redis+sentinel://h:1/m", cfg).client.(*redis.Client); !ok {
		t.Error("sentinel form is not a failover client")
	}
}

// Values from the Redis Cluster specification and CLUSTER KEYSLOT.
func TestSlot(t *testing.T) {
	for key, want := range map[string]int{
		"123456789": 0x31c3 % clusterSlots, "foo": 12182, "bar": 5061, "": 0,
		"{foo}.a": 12182, "a{foo}{b}": 12182, "{}foo": slot("{}foo"),
	} {
		if got := slot(key); got != want {
			t.Errorf("slot of %q is %d, want %d", key, got, want)
		}
	}
	if slot("{}foo") == slot("{}bar") {
		t.Error("an empty tag is taken for a tag")
	}
}

func TestClusterBreakersAreApart(t *testing.T) {
	cfg := RedisConfig{Config: testConfig(), Address: Address{Form: Cluster}}
	b := newBreakers(cfg)
	dead, alive := b.index("foo"), b.index("bar")
	for range cfg.BreakerFailures {
		done, err := b.allow(dead)
		if err != nil {
			t.Fatal(err)
		}
		done(errForeign)
	}
	if _, err := b.allow(dead); err == nil {
		t.Error("range of the dead node is still asked")
	}
	if _, err := b.allow(alive); err != nil {
		t.Errorf("range of a living node: %v", err)
	}
}
