package pull_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/image/registrytest"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func certificate(t *testing.T, template *x509.Certificate, by *authority) (*authority, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	if by == nil {
		by = &authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}, der
}

func newAuthority(t *testing.T) (*authority, string) {
	t.Helper()
	a, der := certificate(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a, path
}

// serveTLS starts a registry with a certificate for the address, good for so
// long from now on.
func serveTLS(t *testing.T, ca *authority, ip string, good time.Duration) *registrytest.Registry {
	t.Helper()
	r := registrytest.NewUnstarted(t)
	leaf, der := certificate(t, &x509.Certificate{
		IPAddresses: []net.IP{net.ParseIP(ip)}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(good),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca)
	r.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: leaf.key}}}
	r.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	r.StartTLS()
	return r
}

func TestTLS(t *testing.T) {
	ca, file := newAuthority(t)
	img := sample(t)
	for name, c := range map[string]struct {
		ip    string
		good  time.Duration
		self  bool   // signed by nobody else
		hosts string // of the registry; %s is the authority's file
		wrong any    // a pointer for errors.As; nil where it is to work
	}{
		"authority known":   {ip: "127.0.0.1", good: time.Hour, hosts: "ca = %q\n"},
		"authority unknown": {ip: "127.0.0.1", good: time.Hour, wrong: new(x509.UnknownAuthorityError)},
		"self-signed":       {ip: "127.0.0.1", good: time.Hour, self: true, wrong: new(x509.UnknownAuthorityError)},
		"expired":           {ip: "127.0.0.1", good: -time.Hour, hosts: "ca = %q\n", wrong: new(x509.CertificateInvalidError)},
		"wrong name":        {ip: "127.0.0.9", good: time.Hour, hosts: "ca = %q\n", wrong: new(x509.HostnameError)},
		"not to be checked": {ip: "127.0.0.9", good: -time.Hour, hosts: "skip_verify = true\n# %s\n"},
	} {
		t.Run(name, func(t *testing.T) {
			by := ca
			if c.self {
				by = nil
			}
			r, client := serveTLS(t, by, c.ip, c.good), newClient(t)
			r.Add("x", "latest", img)
			if c.hosts != "" {
				client.registry.CertsDirs = []string{hosts(t, r.Host(), fmt.Sprintf(c.hosts, file))}
			}
			got, err := client.do(t.Context(), r.Host()+"/x")
			if c.wrong == nil {
				if err != nil {
					t.Fatal(err)
				}
				client.whole(t, got, img)
				return
			}
			if err == nil || !errors.As(err, c.wrong) {
				t.Errorf("got %v, want %T", err, c.wrong)
			}
			if got := r.Requests(); len(got) > 0 {
				t.Errorf("it was asked for %q all the same", got)
			}
			client.registry.Insecure = true
			client.whole(t, client.must(t, r.Host()+"/x"), img)
		})
	}
	// docker's form: NAME.crt in the folder of the registry.
	t.Run("certificates as with docker", func(t *testing.T) {
		r, client := serveTLS(t, ca, "127.0.0.1", time.Hour), newClient(t)
		r.Add("x", "latest", img)
		dir := t.TempDir()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, r.Host()), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, r.Host(), "x.crt"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		client.registry.CertsDirs = []string{dir}
		client.whole(t, client.must(t, r.Host()+"/x"), img)
	})
}
