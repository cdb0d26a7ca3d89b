package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// patience bounds each case, browser included.
const patience = 60 * time.Second

// calls are the five of the protocol, by their names in the OpenAPI document.
var calls = []struct{ path, id string }{
	{"/events/broadcast", "operations-events-broadcastEvents"},
	{"/events/poll", "operations-events-pollEvents"},
	{"/rids/fetch", "operations-state-fetchRIDs"},
	{"/manifests/fetch", "operations-state-fetchManifests"},
	{"/bundles/fetch", "operations-state-fetchBundles"},
}

func TestDocsPage(t *testing.T) {
	program := findBrowser(t)
	node := buildNode(t)
	browser := startBrowser(t, program)

	t.Run("direct", func(t *testing.T) {
		base := startNode(t, node) + "/koi-net"
		v := visit(t, browser, base)
		for _, c := range calls {
			v.execute(c.id)
			v.expect(c.id, "200", "{", "null")
		}
		v.execute("operations-node-getNode")
		v.expect("operations-node-getNode", "200", "orn:koi-net.node:page+")
		v.clean()
		v.fenced()
	})
	t.Run("with a slash too many", func(t *testing.T) {
		base := startNode(t, node) + "/koi-net"
		v := visit(t, browser, base, "/docs/")
		v.clean()
	})
	t.Run("signed alone", func(t *testing.T) {
		base := startNode(t, node, "--unsigned-peers", "Deny") + "/koi-net"
		v := visit(t, browser, base)
		v.execute(calls[2].id)
		v.expect(calls[2].id, "403", "sign the call")
		v.clean("403 (Forbidden)") // as it should be
	})
	for name, c := range map[string]struct{ base, strip string }{
		"behind a proxy that keeps the base path":      {"/nodes/one/koi-net", ""},
		"behind a proxy that takes the base path off":  {"/koi-net", "/koi-net"},
		"behind a proxy, at the root of a host's name": {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var upstream string
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.URL.Path = strings.TrimPrefix(r.URL.Path, c.strip)
				to, _ := url.Parse(upstream)
				httputil.NewSingleHostReverseProxy(to).ServeHTTP(w, r)
			}))
			t.Cleanup(proxy.Close)
			upstream = startNode(t, node, "--base-url", proxy.URL+c.base)
			v := visit(t, browser, proxy.URL+c.base)
			v.execute(calls[2].id)
			v.expect(calls[2].id, "200", `"rids"`)
			v.clean()
		})
	}
}

// findBrowser returns the browser's path, or skips the test.
func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	const why = "NOT RUN: the page at docs was tried in no browser, for there is none; install chromium-headless-shell"
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
	return ""
}

// startBrowser starts a browser that finds nothing but loopback. The context is for
// chromedp.NewContext.
func startBrowser(t *testing.T, program string) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(1280, 1600),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"),
		chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("disable-gpu", true),
	)
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's does not work as root
	}
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	first, closeFirst := chromedp.NewContext(allocator)
	t.Cleanup(closeFirst)
	if err := chromedp.Do(first); err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	version, err := chromedp.Run(first, chromedp.Evaluate[string]("navigator.userAgent"))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(version)
	return first
}

func buildNode(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "koi-node")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/koi-node")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// startNode starts a node and returns its origin, as in "http://127.0.0.1:8000". It is
// stopped with the test.
func startNode(t *testing.T, program string, arguments ...string) string {
	t.Helper()
	cmd := exec.Command(program, append([]string{"run", "--name", "page", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0",
		"--admin-listen", "", "--log-format", "json"}, arguments...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listens, ended := make(chan int, 1), make(chan struct{})
	var said bytes.Buffer
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(io.TeeReader(stderr, &said))
		for lines.Scan() {
			var line struct {
				Msg    string
				Listen struct{ Port int }
			}
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "node up" {
				listens <- line.Listen.Port
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		killer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer killer.Stop()
		<-ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("koi-node: %v\n%s", err, said.String())
		}
	})
	select {
	case port := <-listens:
		return fmt.Sprintf("http://127.0.0.1:%d", port)
	case <-ended:
		t.Fatalf("koi-node ended\n%s", said.String())
	case <-time.After(patience):
		t.Fatal("koi-node does not come up")
	}
	return ""
}

// visitor is one tab at the page of a node, and what the browser had to say.
type visitor struct {
	t      *testing.T
	tab    context.Context
	origin string

	mu         sync.Mutex
	requests   []string
	complaints []string
}

// witness keeps what the page's policy refused, from before the page's first script.
const witness = `window.refused = []; document.addEventListener("securitypolicyviolation", e => refused.push(e.effectiveDirective + " " + e.blockedURI));`

// visit opens the page of the node at base, and waits until it shows all five calls.
// at is the page's path, if not /docs.
func visit(t *testing.T, browser context.Context, base string, at ...string) *visitor {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	tab, closeTab := chromedp.NewContext(browser)
	t.Cleanup(closeTab)
	v := &visitor{t: t, tab: tab, origin: "http://" + u.Host}
	v.do("opening a tab") // without a time limit: it would be the tab's
	tab, cancel := context.WithTimeout(tab, patience)
	t.Cleanup(cancel)
	v.tab = tab
	if err := chromedp.Listen(tab, v.hear); err != nil {
		t.Fatal(err)
	}
	v.do("opening the page",
		chromedp.Func(listen),
		chromedp.Navigate(base+strings.Join(append(at, "/docs")[:1], "")),
	)
	for _, c := range calls {
		v.do("waiting for "+c.path, chromedp.WaitVisible(chromedp.CSS(fmt.Sprintf(`.opblock-post .opblock-summary-path[data-path=%q]`, c.path))))
	}
	document := read(v, "finding the link to the document", chromedp.Evaluate[string](`document.querySelector("header a").href`))
	if document != base+"/openapi.json" {
		t.Errorf("the link leads to %s", document)
	}
	return v
}

// listen has the browser tell what it does for the tab.
func listen(ctx context.Context, tab *chromedp.Target) error {
	if _, err := cdp.Call(ctx, tab, network.Enable, network.EnableParams{}); err != nil {
		return err
	}
	for _, enable := range []cdp.Command[cdp.Empty, cdp.Empty]{cdplog.Enable, runtime.Enable} {
		if _, err := cdp.Call(ctx, tab, enable, cdp.Empty{}); err != nil {
			return err
		}
	}
	_, err := cdp.Call(ctx, tab, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: witness})
	return err
}

func (v *visitor) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	if err := chromedp.Do(v.tab, actions...); err != nil {
		v.fail(what, err)
	}
}

// read does what has a result.
func read[T any](v *visitor, what string, action chromedp.Action[T]) T {
	v.t.Helper()
	got, err := chromedp.Run(v.tab, action)
	if err != nil {
		v.fail(what, err)
	}
	return got
}

func (v *visitor) fail(what string, err error) {
	v.t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.t.Fatalf("%s: %v\nrequests: %q\ncomplaints: %q", what, err, v.requests, v.complaints)
}

// hear takes in what the browser tells of the tab.
func (v *visitor) hear(event any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		v.requests = append(v.requests, e.Request.URL)
	case *network.EventWebSocketCreated:
		v.requests = append(v.requests, e.URL)
	case *network.EventLoadingFailed:
		v.complaints = append(v.complaints, "loading failed: "+e.ErrorText+" "+string(e.BlockedReason))
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError || e.Entry.Level == cdplog.EntryLevelWarning {
			v.complaints = append(v.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	case *runtime.EventExceptionThrown:
		v.complaints = append(v.complaints, fmt.Sprintf("exception: %s %s", e.ExceptionDetails.Text, describe([]*runtime.RemoteObject{e.ExceptionDetails.Exception})))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning || e.Type == runtime.ConsoleAPICalledTypeAssert {
			v.complaints = append(v.complaints, fmt.Sprintf("console: %s", describe(e.Args)))
		}
	}
}

func describe(args []*runtime.RemoteObject) string {
	var out []string
	for _, a := range args {
		if a == nil {
			continue
		}
		out = append(out, string(a.Value)+a.Description)
	}
	return strings.Join(out, " ")
}

// execute opens a call, looks at its schema, and makes it with the example it shows.
func (v *visitor) execute(id string) {
	v.t.Helper()
	in := chromedp.CSS("#" + id + " ")
	v.do("executing "+id,
		chromedp.Click(in+".opblock-summary-control"),
		chromedp.WaitVisible(in+".model-example .tab"),
		chromedp.Click(in+".model-example .tab li:nth-of-type(2) button"),
		chromedp.Click(in+".try-out__btn"),
		chromedp.Click(in+".execute"),
		chromedp.WaitVisible(in+".live-responses-table .response-col_status"),
	)
}

// expect wants the status of the answer that is shown, and one of the texts in it.
func (v *visitor) expect(id, status string, texts ...string) {
	v.t.Helper()
	answer := chromedp.CSS("#" + id + " .live-responses-table tbody ")
	code := read(v, "reading the status of "+id, chromedp.Text(answer+".response-col_status"))
	body := read(v, "reading the answer to "+id, chromedp.Text(answer+".response-col_description"))
	if !strings.HasPrefix(strings.TrimSpace(code), status) {
		v.t.Errorf("%s: status %s, want %s: %s", id, code, status, body)
	}
	if !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(body, text) }) {
		v.t.Errorf("%s: the answer shown has none of %q: %s", id, texts, body)
	}
}

// clean holds the browser to having asked nobody but the node, and to having nothing
// to complain of but what is given.
func (v *visitor) clean(but ...string) {
	v.t.Helper()
	refused := read(v, "reading what was refused", chromedp.Evaluate[[]string]("window.refused"))
	v.picture()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(refused) > 0 {
		v.t.Errorf("the policy refused %q", refused)
	}
	own := 0
	for _, to := range v.requests {
		switch {
		case strings.HasPrefix(to, v.origin+"/"):
			own++
		case !strings.HasPrefix(to, "data:image/"):
			v.t.Errorf("a request left the node: %.200s", to)
		}
	}
	if own < 6 {
		v.t.Errorf("only %d requests were seen: %q", own, v.requests)
	}
	for _, c := range v.complaints {
		if !slices.ContainsFunc(but, func(text string) bool { return strings.Contains(c, text) }) {
			v.t.Errorf("the browser complains: %s", c)
		}
	}
}

// fenced shows that the page could not do what clean found that it did not: it makes it
// try. Whatever listens elsewhere must not hear of it.
func (v *visitor) fenced() {
	v.t.Helper()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		v.t.Errorf("a request left the node: %s %s", r.Method, r.URL)
	}))
	defer elsewhere.Close()
	attempts := fmt.Sprintf(`(async () => {
		const to = %q;
		try { await fetch(to + "/fetch"); } catch {}
		const add = (kind, set) => { const e = document.createElement(kind); set(e); document.body.append(e); };
		add("script", e => e.src = to + "/script");
		add("script", e => e.textContent = "window.broken = true");
		add("img", e => e.src = to + "/image");
		add("link", e => { e.rel = "stylesheet"; e.href = to + "/style" });
		add("iframe", e => e.src = to + "/frame");
		add("style", e => e.textContent = "body { display: none }");
		return window.broken === undefined;
	})()`, elsewhere.URL)
	if !read(v, "making the page misbehave", chromedp.Evaluate[bool](attempts, chromedp.EvalAwaitPromise)) {
		v.t.Error("a script in the page was run")
	}
	for _, directive := range []string{"connect-src", "script-src-elem http", "script-src-elem inline", "img-src", "style-src-elem http", "style-src-elem inline", "frame-src"} {
		read(v, "waiting for the refusal by "+directive, chromedp.Poll[bool](fmt.Sprintf("window.refused.some(r => r.startsWith(%q))", directive)))
	}
}

// picture keeps a picture of the page with the test's artifacts (go test -artifacts).
func (v *visitor) picture() {
	v.t.Helper()
	if keep := flag.Lookup("test.artifacts"); keep == nil || keep.Value.String() != "true" {
		return
	}
	png := read(v, "taking a picture", chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(v.t.ArtifactDir(), "page.png"), png, 0o600); err != nil {
		v.t.Error(err)
	}
}
