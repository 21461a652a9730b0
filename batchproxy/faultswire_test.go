//go:build unix

package batchproxy

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// membersOf are the names of an object's members, sorted.
func membersOf(t *testing.T, text string) []string {
	t.Helper()
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return slices.Sorted(maps.Keys(object))
}

// sameJSON reports whether two texts are the same JSON, however written.
func sameJSON(t *testing.T, x, y string) bool {
	t.Helper()
	var a, b any
	if err := errors.Join(json.Unmarshal([]byte(x), &a), json.Unmarshal([]byte(y), &b)); err != nil {
		t.Errorf("%s, %s: %v", x, y, err)
	}
	return reflect.DeepEqual(a, b)
}

// answersIn are the status and body of each answer in what a server wrote.
func answersIn(t *testing.T, text string) (codes []int, bodies []string) {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(text))
	for {
		if _, err := r.Peek(1); err != nil {
			return codes, bodies
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			return codes, bodies
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil && resp.ContentLength >= 0 {
			t.Errorf("%q: %v", text, err)
		}
		codes, bodies = append(codes, resp.StatusCode), append(bodies, string(body))
	}
}

// testSmuggling: of each message the proxy and whoever stands before it see the same requests, or the proxy sees none. Each is
// sent to a path that is batched and to one that is passed on, and another request hides in what could be taken for its body.
func testSmuggling(t *testing.T) {
	const hidden = "POST /v1/models/m:predict HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Length: 24\r\n\r\n{\"instances\":[\"hidden\"]}"
	const good = `{"instances":["good"]}`
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(good), good)
	length := fmt.Sprintf("Content-Length: %d\r\n", len(good))
	for _, tt := range []struct {
		name    string
		line    string // the request line, with the path in place of %s; that of HTTP/1.1 if empty
		head    string // after Host
		body    string
		want    []int // statuses
		reaches bool  // the replica, once, with the good body
	}{
		{"Content-Length and Transfer-Encoding", "", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", chunked + hidden, []int{200}, true},
		{"Transfer-Encoding and Content-Length", "", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", chunked + hidden, []int{200}, true},
		{"two lengths", "", length + "Content-Length: 6\r\n", good + hidden, []int{400}, false},
		{"lengths in a list", "", fmt.Sprintf("Content-Length: %d, 6\r\n", len(good)), good + hidden, []int{400}, false},
		{"a length with a sign", "", fmt.Sprintf("Content-Length: +%d\r\n", len(good)), good + hidden, []int{400}, false},
		{"a negative length", "", "Content-Length: -1\r\n", good + hidden, []int{400}, false},
		{"a length in hex", "", "Content-Length: 0x16\r\n", good + hidden, []int{400}, false},
		{"a length that overflows", "", "Content-Length: 18446744073709551638\r\n", good + hidden, []int{400}, false},
		{"an empty length", "", "Content-Length: \r\n", good + hidden, []int{400}, false},
		{"another encoding", "", "Transfer-Encoding: xchunked\r\n" + length, good + hidden, []int{501}, false},
		{"identity and a length", "", "Transfer-Encoding: identity\r\n" + length, good + hidden, []int{501}, false},
		{"two encodings", "", "Transfer-Encoding: gzip, chunked\r\n", chunked + hidden, []int{501}, false},
		{"an encoding that is given twice", "", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunked + hidden, []int{501}, false},
		{"chunked twice", "", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunked + hidden, []int{501}, false},
		{"an encoding after a vertical tab", "", "Transfer-Encoding: \vchunked\r\n" + length, good + hidden, []int{400}, false},
		{"a space before the colon", "", "Content-Length : 6\r\n" + length, good + hidden, []int{400}, false},
		{"a space before the colon of an encoding", "", "Transfer-Encoding : chunked\r\n" + length, good + hidden, []int{400}, false},
		{"obs-fold", "", "X-Tenant: a\r\n b\r\nConnection: close\r\n" + length, good, []int{200}, true},
		{"obs-fold of an encoding", "", "Transfer-Encoding:\r\n chunked\r\nContent-Length: 6\r\n", chunked + hidden, []int{200}, true},
		{"obs-fold that hides a length", "", "X-Tenant: a\r\n Content-Length: 6\r\nConnection: close\r\n" + length, good, []int{200}, true},
		{"a line without a colon", "", "nothing\r\n" + length, good + hidden, []int{400}, false},
		{"an empty name", "", ": a\r\n" + length, good + hidden, []int{400}, false},
		{"a name with a NUL", "", "X\x00: a\r\n" + length, good + hidden, []int{400}, false},
		{"a value with a NUL", "", "X: a\x00b\r\n" + length, good + hidden, []int{400}, false},
		{"a value with a lone carriage return", "", "X: a\rContent-Length: 6\r\n" + length, good + hidden, []int{400}, false},
		{"lines that end with a line feed alone", "POST %s HTTP/1.1\nHost: m\nConnection: close\n" + strings.ReplaceAll(length, "\r", "") + "\n", "", good, []int{200}, true},
		{"a chunk extension", "", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x;a=\"b\"\r\n%s\r\n0;c\r\n\r\n", len(good), good) + hidden, []int{200}, true},
		{"a chunk extension with a line feed", "", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x;\nxx\r\n%s\r\n0\r\n\r\n", len(good), good) + hidden, []int{400}, false},
		{"chunks that end with a line feed alone", "", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\n%s\n0\n\n", len(good), good) + hidden, []int{400}, false},
		{"a chunk with a sign", "", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("+%x\r\n%s\r\n0\r\n\r\n", len(good), good) + hidden, []int{400}, false},
		{"a chunk in 0x", "", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("0x%x\r\n%s\r\n0\r\n\r\n", len(good), good) + hidden, []int{400}, false},
		{"a chunk that overflows", "", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("1000000000000000%x\r\n%s\r\n0\r\n\r\n", len(good), good) + hidden, []int{400}, false},
		{"a chunk longer than it says", "", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("2\r\n%s\r\n0\r\n\r\n", good) + hidden, []int{400}, false},
		{"chunk extensions without end", "", "Transfer-Encoding: chunked\r\n", strings.Repeat("1;"+strings.Repeat("x", 3000)+"\r\n{\r\n", 64) + hidden, []int{400}, false},
		{"a length in a trailer", "", "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", strings.TrimSuffix(chunked, "\r\n") + "Content-Length: 6\r\n\r\n" + hidden, []int{400}, false},
		{"chunks in HTTP/1.0", "POST %s HTTP/1.0\r\nHost: m\r\n", "Transfer-Encoding: chunked\r\n" + length, good, []int{200}, true},
		{"HTTP/0.9", "POST %s\r\n", "", good, []int{400}, false},
		{"HTTP/1.2 and a space", "POST %s HTTP/1.1 \r\nHost: m\r\n", length, good + hidden, []int{400}, false},
		{"HTTP/9.9", "POST %s HTTP/9.9\r\nHost: m\r\n", length, good + hidden, []int{505}, false},
		{"two spaces", "POST  %s HTTP/1.1\r\nHost: m\r\n", length, good + hidden, []int{400}, false},
		{"no host", "POST %s HTTP/1.1\r\n", length, good + hidden, []int{400}, false},
		{"two hosts", "POST %s HTTP/1.1\r\nHost: m\r\nHost: n\r\n", length, good + hidden, []int{400}, false},
		{"a host with a space", "POST %s HTTP/1.1\r\nHost: m n\r\n", length, good + hidden, []int{400}, false},
		{"a line before the method", "\r\nPOST %s HTTP/1.1\r\nHost: m\r\n", length, good + hidden, []int{400}, false},
		{"a method with a brace", "PO{ST %s HTTP/1.1\r\nHost: m\r\n", length, good + hidden, []int{400}, false},
		{"another host in the line", "POST http://elsewhere%s HTTP/1.1\r\nHost: m\r\nConnection: close\r\n", length, good, []int{200}, true},
		{"a huge header", "", "X: " + strings.Repeat("x", 200<<10) + "\r\n" + length, good + hidden, []int{431}, false},
		{"many headers", "", strings.Repeat("X: y\r\n", 40<<10) + length, good + hidden, []int{431}, false},
		{"a huge line", "POST %s?" + strings.Repeat("x", 200<<10) + " HTTP/1.1\r\nHost: m\r\n", length, good + hidden, []int{431}, false},
		{"a body that nobody reads", "POST /nowhere HTTP/1.1\r\nHost: m\r\n", fmt.Sprintf("Content-Length: %d\r\n", len(hidden)), hidden + hidden, []int{404, 200}, false},
		{"a pipeline", "", length, good + hidden, []int{200, 200}, true},
		{"an answer to Expect that is not waited for", "", "Expect: 100-continue\r\n" + length, good + hidden, []int{200, 200}, true},
		{"an expectation that nobody knows", "", "Expect: 200-ok\r\n" + length, good + hidden, []int{417}, false},
	} {
		for _, path := range []string{"/v1/models/m:predict", "/v2/models/m/generate", "/v1/completions"} {
			t.Run(tt.name+" "+path, func(t *testing.T) {
				s := newModelServer(t)
				f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
				head := "POST %s HTTP/1.1\r\nHost: m\r\n"
				if tt.line != "" {
					head = tt.line
				}
				if strings.Contains(head, "%s") {
					head = fmt.Sprintf(head, path)
				}
				end := "\r\n"
				if strings.HasSuffix(head, "\n\n") {
					end = ""
				}
				codes, _ := answersIn(t, exchangeAll(t, f.url, head+tt.head+end+tt.body))
				codes = slices.DeleteFunc(codes, func(code int) bool { return code == 100 }) // of which there may be any number
				mine := 0
				for _, c := range s.seen() {
					switch {
					case c.body == good:
						mine++
						if got := c.header.Get("X-Tenant"); strings.Contains(tt.head, "X-Tenant") && strings.ContainsAny(got, "\r\n") {
							t.Errorf("a header has come to the replica as %q", got)
						}
					case c.body == `{"instances":["hidden"]}` && len(tt.want) > 1: // the pipeline's second, which is meant
					default:
						t.Errorf("the replica was sent %s %q", c.path, c.body)
					}
				}
				if diff := cmp.Diff(tt.want, codes); diff != "" {
					t.Errorf("statuses: %s", diff)
				}
				if want := map[bool]int{true: 1}[tt.reaches]; mine != want {
					t.Errorf("%d requests have come to the replica, want %d", mine, want)
				}
			})
		}
	}
}

// exchangeAll is exchange with a server that may close the connection before it has read all.
func exchangeAll(t *testing.T, url, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.WriteString(conn, text) // the server may have had enough
	})
	defer wg.Wait()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	_, err = io.Copy(&all, conn)
	if err != nil && all.Len() == 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after %q: %v", all.String(), err)
	}
	return all.String()
}

// testUpgradeIsNoTunnel: a replica that would go on in HTTP/2 on the same connection is not asked to, as the proxy would not see
// the requests in it. WebSockets, which are one stream, pass.
func testUpgradeIsNoTunnel(t *testing.T) {
	s := newModelServer(t)
	s.before = func(w http.ResponseWriter, r *http.Request, c call) bool {
		to := c.header.Get("Upgrade")
		if to == "" {
			return false
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", to)
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "tunnel")
		return true
	}
	f := start(t, oneModel(Upstream{URL: s.URL}), Options{})
	for _, tt := range []struct {
		to   string
		code int
	}{{"h2c", 200}, {"H2C", 200}, {"TLS/1.0", 200}, {"websocket", 101}} {
		for _, path := range []string{"/v2/models/m/generate", "/v1/models/m:predict", "/v1/realtime"} {
			if tt.to == "websocket" && path == "/v1/models/m:predict" {
				continue // is batched, and no stream
			}
			body := `{"instances":[1]}`
			got := exchangeHalf(t, f.url, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: m\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: %d\r\n\r\n%s", path, tt.to, len(body), body))
			if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", tt.code)) || strings.Contains(got, "tunnel") != (tt.code == 101) {
				t.Errorf("upgrade of %s to %s: %q", path, tt.to, got)
			}
		}
	}
	for _, c := range s.seen() {
		if c.header.Get("Http2-Settings") != "" {
			t.Errorf("%s was sent with HTTP2-Settings", c.path)
		}
	}
}

// gzipBomb is zeros of so many MiB: some kilobytes.
func gzipBomb(t *testing.T, mib int) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	_, err = z.Write(make([]byte, 1<<20))
	if err = errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return bytes.Repeat(out.Bytes(), mib) // one member after the other is one file
}

// zstdBomb is zeros of so many MiB: a frame of blocks that are one byte 128 Ki times over, 32 bytes for a MiB.
func zstdBomb(mib int) []byte {
	out := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58} // magic, no content size, a window of 2 MiB
	for i := range 8 * mib {
		header := uint32(128<<10)<<3 | 1<<1 // RLE
		if i == 8*mib-1 {
			header |= 1
		}
		out = append(out, byte(header), byte(header>>8), byte(header>>16), 0)
	}
	return out
}

// testBombs: what is small on the wire stays small here, compressed or nested.
func testBombs(t *testing.T) {
	const most = 128 << 20 // bytes that may be allocated, in all, for any of them
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	s := newModelServer(t)
	gzipped, zstandard := gzipBomb(t, 512), zstdBomb(32<<10)
	var answer []byte
	var encoding string
	s.before = func(w http.ResponseWriter, _ *http.Request, _ call) bool {
		if answer != nil {
			w.Header().Set("Content-Encoding", encoding)
			_, _ = w.Write(answer)
		}
		return answer != nil
	}
	f := start(t, pairs(Upstream{URL: s.URL}), Options{})
	f.client.Transport.(*http.Transport).DisableCompression = true
	check := func(name string, drop func()) {
		t.Helper()
		before := allocated()
		drop()
		if n := allocated() - before; n > most {
			t.Errorf("%s: %d bytes were allocated", name, n)
		}
	}
	for encoding, bomb := range map[string][]byte{"gzip": gzipped, "zstd": zstandard, "gzip, zstd": zstandard, "br": zstandard, "x-gzip": gzipped} {
		for path, code := range map[string]int{"/v1/models/m:predict": 415, "/v2/models/m/infer": 415, "/v1/embeddings": 415, "/v2/models/m/generate": 200} {
			before := len(s.seen())
			check(encoding+" to "+path, func() {
				if got := f.post(path, string(bomb), "Content-Encoding", encoding); got.code != code {
					t.Errorf("%s to %s: %d %.200s", encoding, path, got.code, got.body)
				}
			})
			if got := s.seen()[before:]; code == 415 && len(got) > 0 || code == 200 && (len(got) != 1 || got[0].body != string(bomb)) {
				t.Errorf("%s to %s: the replica was sent %d requests, or others than what came", encoding, path, len(got))
			}
		}
	}
	for name, bomb := range map[string][]byte{"gzip": gzipped, "zstd": zstandard} {
		answer, encoding = bomb, name
		check("an answer in "+name, func() {
			for _, got := range f.postAll("/v1/models/m:predict", `{"instances":[1]}`, `{"instances":[2]}`) {
				if got.code != 200 || got.header.Get("Content-Encoding") != name || got.body != string(bomb) {
					t.Errorf("an answer in %s: %d %.20q", name, got.code, got.body)
				}
			}
		})
	}
	answer = nil
	deep := strings.Repeat("[", 1<<20)
	for name, bomb := range map[string][2]string{
		"deep arrays":          {"/v1/models/m:predict", `{"instances":[` + deep},
		"deep and whole":       {"/v1/models/m:predict", `{"instances":[` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `]}`},
		"deep objects":         {"/v1/models/m:predict", strings.Repeat(`{"instances":`, 1<<18)},
		"deep and for no lane": {"/v1/embeddings", `{"a":` + deep},
		"deep tensors":         {"/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[` + deep},
		"many dimensions":      {"/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[` + strings.Repeat("1,", 1<<20) + `1],"datatype":"INT8","data":[1,2]}]}`},
		"a huge shape":         {"/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[2147483647],"datatype":"INT8","data":[]}]}`},
		"a shape that wraps":   {"/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[65536,65536,65536,65536],"datatype":"INT8","data":[]}]}`},
		"a shape that is zero": {"/v2/models/m/infer", `{"inputs":[{"name":"x","shape":[0,999999999],"datatype":"INT8","data":[1]}]}`},
	} {
		check(name, func() {
			if got := f.post(bomb[0], bomb[1]); got.code != 400 {
				t.Errorf("%s: %d %.200s", name, got.code, got.body)
			}
		})
	}
	// A number of a megabyte is nobody's to decode.
	digits := strings.Repeat("9", 1<<20)
	check("a long number", func() {
		for _, got := range f.postAll("/v1/models/m:predict", `{"instances":[`+digits+`]}`, `{"instances":[1`+digits+`]}`) {
			if got.code != 200 {
				t.Errorf("a long number: %d", got.code)
			}
		}
	})
}

// testAccessLogLinesAreShort: what clients may make long does not make lines long, which wait in memory to be written.
func testAccessLogLinesAreShort(t *testing.T) {
	s := newModelServer(t)
	cfg := oneModel(Upstream{URL: s.URL})
	cfg.AccessLog.Path = filepath.Join(t.TempDir(), "access.log")
	f := start(t, cfg, Options{})
	long := strings.Repeat("x", 12<<10)
	exchangeAll(t, f.url, long+" /v1/models/m/"+long+"?"+long+" HTTP/1.1\r\nHost: "+"m\r\nUser-Agent: "+long+"\r\nX-Request-Id: "+long[:5<<10]+"\r\nConnection: close\r\n\r\n")
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(cfg.AccessLog.Path)
	if err != nil || len(text) == 0 || len(text) > 4<<10 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}
