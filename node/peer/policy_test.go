package peer

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAllowed(t *testing.T) {
	cidrs := func(s ...string) (out []netip.Prefix) {
		for _, c := range s {
			out = append(out, netip.MustParsePrefix(c))
		}
		return out
	}
	local := Policy{AllowLoopback: true}
	for _, c := range []struct {
		addr   string
		policy Policy
		ok     bool
	}{
		{"10.0.0.7", Policy{}, true},
		{"192.168.1.1", Policy{}, true},
		{"93.184.216.34", Policy{}, true},
		{"100.100.100.199", Policy{}, true},
		{"2001:db8::1", Policy{}, true},
		{"fd12:3456::1", Policy{}, true},
		{"::ffff:10.0.0.7", Policy{}, true},
		{"64:ff9b::a00:7", Policy{}, true}, // 10.0.0.7

		{"127.0.0.1", Policy{}, false},
		{"127.9.9.9", Policy{}, false},
		{"::1", Policy{}, false},
		{"::ffff:127.0.0.1", Policy{}, false},
		{"::7f00:1", Policy{}, false},         // 127.0.0.1, compatible
		{"64:ff9b::7f00:1", Policy{}, false},  // 127.0.0.1, NAT64
		{"2002:7f00:1::", Policy{}, false},    // 127.0.0.1, 6to4
		{"2002:a9fe:a9fe::", Policy{}, false}, // 169.254.169.254, 6to4
		{"127.0.0.1", local, true},
		{"::1", local, true},
		{"::ffff:127.0.0.1", local, true},

		{"169.254.169.254", local, false},
		{"169.254.0.1", local, false},
		{"::ffff:169.254.169.254", local, false},
		{"64:ff9b::a9fe:a9fe", local, false},
		{"fe80::1", local, false},
		{"fe80::1%eth0", local, false},
		{"fec0::1", local, false},
		{"fd00:ec2::254", local, false},
		{"fd00:ec2::23", local, false},
		{"fd20:ce::254", local, false},
		{"100.100.100.200", local, false},
		{"168.63.129.16", local, false},
		{"192.0.0.192", local, false},
		{"0.0.0.0", local, false},
		{"0.1.2.3", local, false},
		{"::", local, false},
		{"::ffff:0.0.0.0", local, false},
		{"224.0.0.1", local, false},
		{"ff02::1", local, false},
		{"255.255.255.255", local, false},
		{"240.0.0.1", local, false},

		{"10.1.2.3", Policy{AllowCIDRs: cidrs("10.0.0.0/8")}, true},
		{"::ffff:10.1.2.3", Policy{AllowCIDRs: cidrs("10.0.0.0/8")}, true},
		{"10.1.2.3", Policy{AllowCIDRs: cidrs("::ffff:10.0.0.0/104")}, true},
		{"11.1.2.3", Policy{AllowCIDRs: cidrs("10.0.0.0/8")}, false},
		{"11.1.2.3", Policy{AllowCIDRs: cidrs("10.0.0.0/8", "11.0.0.0/8")}, true},
		{"2001:db8::1", Policy{AllowCIDRs: cidrs("10.0.0.0/8")}, false},
		{"169.254.169.254", Policy{AllowCIDRs: cidrs("0.0.0.0/0")}, false},
		{"127.0.0.1", Policy{AllowCIDRs: cidrs("127.0.0.0/8")}, false},
		{"127.0.0.1", Policy{AllowLoopback: true, AllowCIDRs: cidrs("10.0.0.0/8")}, false},
		{"127.0.0.1", Policy{AllowLoopback: true, AllowCIDRs: cidrs("127.0.0.1/32")}, true},
	} {
		err := Allowed(netip.MustParseAddr(c.addr), c.policy)
		if (err == nil) != c.ok {
			t.Errorf("%s under %+v: %v, want allowed %t", c.addr, c.policy, err, c.ok)
		}
		if err != nil && !errors.Is(err, ErrForbiddenAddress) {
			t.Errorf("%s: %v does not wrap ErrForbiddenAddress", c.addr, err)
		}
	}
	if Allowed(netip.Addr{}, local) == nil {
		t.Error("the zero address is allowed")
	}
}

func TestCheckBaseURL(t *testing.T) {
	for raw, ok := range map[string]bool{
		"http://peer:8000/koi-net":            true,
		"https://peer.example/koi-net/":       true,
		"http://[2001:db8::1]:80":             true,
		"HTTP://peer":                         true,
		"ftp://peer/koi-net":                  false,
		"file:///etc/passwd":                  false,
		"http:///koi-net":                     false,
		"http:peer":                           false,
		"/koi-net":                            false,
		"":                                    false,
		"http://user:sesame@peer/koi-net":     false,
		"http://user@peer/koi-net":            false,
		"http://peer/koi-net?x=1":             false,
		"http://peer/admin/v1/leave?":         false,
		"http://peer/koi-net#f":               false,
		"http://peer/koi-net#":                false,
		"http://peer:0/":                      false,
		"http://peer:99999/":                  false,
		"http://peer:http/":                   false,
		"http://peer/\x00":                    false,
		"http://" + strings.Repeat("a", 3000): false,
	} {
		err := CheckBaseURL(raw)
		if (err == nil) != ok {
			t.Errorf("%.60q: %v, want accepted %t", raw, err, ok)
		}
		if err != nil && !errors.Is(err, ErrBadURL) {
			t.Errorf("%.60q: %v does not wrap ErrBadURL", raw, err)
		}
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("%.60q: the error tells the password", raw)
		}
	}
}

func FuzzCheckBaseURL(f *testing.F) {
	for _, s := range []string{"http://peer:8000/koi-net", "http://u:p@h", "http://h?#", "http://[::1%25eth0]/", "//h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := parseBase(raw)
		if err != nil {
			return
		}
		if u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
			t.Errorf("%q was accepted", raw)
		}
	})
}
