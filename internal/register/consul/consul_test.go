package consul

import (
	"reflect"
	"testing"

	"github.com/hashicorp/consul/api"

	"stolon/internal/register"
)

// REG-C6
func TestTheClientIsMadeOfTheFlags(t *testing.T) {
	got, err := Config{Endpoint: "https://consul:8501", CertFile: "c", KeyFile: "k", CA: "ca", SkipTLSVerify: true}.client()
	if err != nil {
		t.Fatal(err)
	}
	if got.Scheme != "https" || got.Address != "consul:8501" || got.TLSConfig.CertFile != "c" || got.TLSConfig.KeyFile != "k" || got.TLSConfig.CAFile != "ca" || !got.TLSConfig.InsecureSkipVerify {
		t.Errorf("the client's configuration is %+v", got)
	}
	if got, err := (Config{Endpoint: "http://127.0.0.1:8500", CertFile: "c"}).client(); err != nil || got.Scheme != "http" || got.TLSConfig.CertFile != "" {
		t.Errorf("without TLS: %+v, %v", got, err)
	}
}

// REG-D1, REG-D2
func TestWhatTheAgentIsTold(t *testing.T) {
	got := registration(register.Service{ID: "i", Name: "n", Address: "::1", Port: 5432, Tags: []string{"slave"}})
	want := &api.AgentServiceRegistration{ID: "i", Name: "n", Address: "::1", Port: 5432, Tags: []string{"slave"}, Check: &api.AgentServiceCheck{TCP: "[::1]:5432", Interval: "10s"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("registration = %+v, want %+v", got, want)
	}
}

// REG-D3
func TestWhatTheCatalogTells(t *testing.T) {
	got := services([]*api.CatalogService{
		nil,
		{Node: "here", ServiceID: "a", ServiceName: "n", ServiceAddress: "h", ServicePort: 1, ServiceTags: []string{"x"}},
		{Node: "there", ServiceID: "b"},
	}, "here")
	want := []register.Service{{ID: "a", Name: "n", Address: "h", Port: 1, Tags: []string{"x"}}, {ID: "b", Foreign: true}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("services = %+v, want %+v", got, want)
	}
}
