package cni

import (
	"net/netip"
	"strconv"
	"strings"
)

// cutLast cuts at the last colon; before is "" and found false without one.
func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

func portNumber(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n > 0 && s[0] != '+'
}

// address takes an IP address, an IPv6 one in brackets.
func address(s string) (string, bool) {
	bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	ip, err := netip.ParseAddr(bare)
	if err != nil || ip.Is6() != (len(bare) == len(s)-2) {
		return "", false
	}
	return ip.String(), true
}
