package reach

import "k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // client-go's portforward takes these types, and no others yet

// httpstreamDialer is what portforward takes.
type httpstreamDialer = httpstream.Dialer

// shouldFallBack reports whether an error of the WebSocket dialer says that the API
// server, or a proxy before it, speaks SPDY alone.
func shouldFallBack(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}
