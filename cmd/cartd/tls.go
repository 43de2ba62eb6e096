package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

// certificates are what processes prove to each other who they are with: a
// certificate names its region, and node and peer ports want one of our CA.
// Methods of a nil value are those of a process without TLS.
type certificates struct {
	cert, key string
	ca        *x509.CertPool
	region    string
}

func loadCertificates(d deployed) (*certificates, error) {
	if d.TLSCA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(d.TLSCA)
	if err != nil {
		return nil, fmt.Errorf("--tls-ca: %w", err)
	}
	c := &certificates{cert: d.TLSCert, key: d.TLSKey, ca: x509.NewCertPool(), region: d.Region}
	if !c.ca.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--tls-ca %s holds no certificate in PEM form", d.TLSCA)
	}
	own, err := c.load()
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key: %w", err)
	}
	if err := own.Leaf.VerifyHostname(d.Region); err != nil {
		return nil, fmt.Errorf("--tls-cert %s is not for region %s: %w", d.TLSCert, d.Region, err)
	}
	return c, nil
}

// load reads the certificate at each handshake, so that a new file is taken
// up without a restart.
func (c *certificates) load() (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(c.cert, c.key)
	return &cert, err
}

func (c *certificates) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.ca,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.load() },
	}
}

// clientConfig is nil without TLS.
func (c *certificates) clientConfig() *tls.Config {
	if c == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: c.ca,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.load() },
	}
}

// listener wants a certificate of those who connect to it.
func (c *certificates) listener(ln net.Listener) net.Listener {
	return tls.NewListener(ln, c.serverConfig())
}

// client makes a link within the region.
func (c *certificates) client(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	conf := c.clientConfig()
	conf.ServerName = c.region
	tc := tls.Client(conn, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("handshake with %s: %w", addr, err), conn.Close())
	}
	return tc, nil
}

// verifyNode returns the check that a process is of the region that its
// name says; nil without TLS.
func (c *certificates) verifyNode() func(conn net.Conn, node string) error {
	if c == nil {
		return nil
	}
	return func(conn net.Conn, node string) error {
		tc, ok := conn.(*tls.Conn)
		if !ok || len(tc.ConnectionState().PeerCertificates) == 0 {
			return fmt.Errorf("node %s shows no certificate", node)
		}
		region, _, _ := strings.Cut(node, "/")
		return tc.ConnectionState().PeerCertificates[0].VerifyHostname(region)
	}
}

// identity returns what tells which region's certificate a request came
// with; nil without TLS.
func (c *certificates) identity(regions func() []string) func(*http.Request) (string, bool) {
	if c == nil {
		return nil
	}
	return func(r *http.Request) (string, bool) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return "", false
		}
		for _, name := range regions() {
			if r.TLS.PeerCertificates[0].VerifyHostname(name) == nil {
				return name, true
			}
		}
		return "", false
	}
}
