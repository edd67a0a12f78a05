package dial

import (
	"bytes"
	"os"
	"testing"

	"stolon/tests/certs"
)

func TestClientCertificateIsReadForEveryConnection(t *testing.T) {
	authority := certs.New(t, t.TempDir(), "ca")
	cert, key := authority.Sign("old")
	newCert, newKey := authority.Sign("new")
	c, err := newClientCert(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	// want checks that the certificate of file is the one that a server gets.
	want := func(when, file, keyFile string) {
		t.Helper()
		wanted, err := readClientCert(file, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.get(nil)
		if err != nil || !bytes.Equal(got.Certificate[0], wanted.Certificate[0]) {
			t.Errorf("%s: get() = another certificate than %s, or error %v", when, file, err)
		}
	}
	keptCert, keptKey := t.TempDir()+"/cert", t.TempDir()+"/key"
	replace(t, keptCert, cert)
	replace(t, keptKey, key)
	want("at first", keptCert, keptKey)
	replace(t, cert, newCert)
	want("the new certificate doesn't fit the old key", keptCert, keptKey)
	replace(t, key, newKey)
	want("both are new", newCert, newKey)
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	want("the file is gone", newCert, newKey)
}

// replace gives the file the contents of another.
func replace(t *testing.T, file, with string) {
	t.Helper()
	b, err := os.ReadFile(with)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
