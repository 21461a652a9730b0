package kubetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"flyball/rules/peertest"
)

// Node is the node that pods have to name (spec.nodeName) for the kubelet to take them: there is no scheduler.
const Node = "loopback"

// Cluster is a control plane that runs until its test ends.
type Cluster struct {
	APIServer *peertest.Server // to stop and to start again; WaitReady tells when it serves
	Admin     dynamic.Interface
	Config    *rest.Config // of the administrator

	dir        string
	etcd       *peertest.Server
	kubeconfig string
	token      string
	kubelet    kubelet
}

// Start runs a control plane until the test ends, and returns when it serves.
func Start(t testing.TB) *Cluster {
	t.Helper()
	for _, program := range []string{"etcd", "kube-apiserver", "kube-controller-manager"} {
		peertest.Binary(t, program) // skips here, before anything is made
	}
	c := &Cluster{dir: t.TempDir(), token: rand.Text()}
	c.etcd = c.startEtcd(t)
	c.APIServer = c.startAPIServer(t)
	c.Config = &rest.Config{
		Host: "https://" + c.APIServer.Address, BearerToken: c.token, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.ca()},
	}
	c.WaitReady(t)
	var err error
	if c.Admin, err = dynamic.NewForConfig(c.Config); err != nil {
		t.Fatal(err)
	}
	c.kubeconfig = c.writeKubeconfig(t, "admin", c.token)
	c.startNode(t)
	c.startControllers(t)
	c.startKubelet(t)
	return c
}

func (c *Cluster) startEtcd(t testing.TB) *peertest.Server {
	t.Helper()
	peers := "http://" + freeAddress(t)
	return peertest.Start(t, peertest.Spec{Name: "etcd", Ready: "/health", Args: func(address, dir string) []string {
		return []string{
			"--data-dir=" + filepath.Join(dir, "etcd"), "--listen-client-urls=http://" + address, "--advertise-client-urls=http://" + address,
			"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=default=" + peers,
		}
	}})
}

// auditPolicy has every write logged with its body, once it was answered.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: RequestResponse, verbs: [create, update, patch, delete, deletecollection]}
- {level: None}
`

func (c *Cluster) startAPIServer(t testing.TB) *peertest.Server {
	t.Helper()
	key := c.write(t, "sa.key", signingKey(t))
	tokens := c.write(t, "tokens.csv", c.token+",admin,1,\"system:masters\"\n")
	policy := c.write(t, "audit.yml", auditPolicy)
	return peertest.Start(t, peertest.Spec{
		Name: "kube-apiserver", Grace: time.Minute,
		Args: func(address, _ string) []string {
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				t.Fatal(err)
			}
			return []string{
				"--etcd-servers=" + c.etcd.URL, "--bind-address=" + host, "--advertise-address=" + host, "--secure-port=" + port,
				"--endpoint-reconciler-type=none", // it would not have a loopback address as the endpoint of its own service
				"--cert-dir=" + filepath.Join(c.dir, "certs"), "--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC",
				"--token-auth-file=" + tokens, "--service-account-issuer=https://kubernetes.default.svc",
				"--service-account-key-file=" + key, "--service-account-signing-key-file=" + key, "--disable-admission-plugins=ServiceAccount",
				"--audit-policy-file=" + policy, "--audit-log-path=" + c.auditLog(), "--shutdown-delay-duration=0s",
			}
		},
	})
}

func (c *Cluster) startControllers(t testing.TB) {
	t.Helper()
	peertest.Start(t, peertest.Spec{Name: "kube-controller-manager", Args: func(address, dir string) []string {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		return []string{
			"--kubeconfig=" + c.kubeconfig, "--authentication-kubeconfig=" + c.kubeconfig, "--authorization-kubeconfig=" + c.kubeconfig,
			"--bind-address=" + host, "--secure-port=" + port, "--cert-dir=" + filepath.Join(dir, "certs"), "--leader-elect=false",
			"--controllers=deployment-controller,replicaset-controller,statefulset-controller,endpointslice-controller,horizontal-pod-autoscaler-controller",
			"--horizontal-pod-autoscaler-sync-period=2s",
		}
	}})
}

// WaitReady returns when the apiserver answers, at most a minute after it was started.
func (c *Cluster) WaitReady(t testing.TB) {
	t.Helper()
	transport, err := rest.TransportFor(rest.CopyConfig(c.Config))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if err != nil { // the certificate, before the server has made it
			transport, err = rest.TransportFor(rest.CopyConfig(c.Config))
		} else if err = ready(transport, c.Config.Host+"/readyz"); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("kube-apiserver is not ready after a minute: %v", err)
		}
	}
}

func ready(transport http.RoundTripper, url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

// Kubeconfig returns the path of a kubeconfig with the administrator as its only context, admin.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig }

// ServiceAccount returns the path of a kubeconfig with a token of a service account, which is made where there is none. Its
// only context has the account's name.
func (c *Cluster) ServiceAccount(t testing.TB, namespace, name string) string {
	t.Helper()
	return c.writeKubeconfig(t, name, c.Token(t, namespace, name))
}

// Token returns a token of a service account, which is made where there is none: by the apiserver's TokenRequest API.
func (c *Cluster) Token(t testing.TB, namespace, name string) string {
	t.Helper()
	return c.boundToken(t, namespace, name, nil)
}

// Pod makes a pod of a service account, and returns the path of a kubeconfig with a token that is bound to it, as the pod
// itself would have one. The pod keeps to the restricted Pod Security standard, so that it may be in any namespace.
func (c *Cluster) Pod(t testing.TB, namespace, account, pod string) string {
	t.Helper()
	c.Token(t, namespace, account) // makes the account
	c.ApplyText(t, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s}\n"+
		"spec:\n  nodeName: %s\n  serviceAccountName: %s\n  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}\n"+
		"  containers: [{name: flyball, image: none, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]\n",
		pod, namespace, Node, account))
	return c.writeKubeconfig(t, pod, c.boundToken(t, namespace, account, map[string]any{"kind": "Pod", "apiVersion": "v1", "name": pod}))
}

// boundToken returns a token that holds as long as an object is there; nil is none.
func (c *Cluster) boundToken(t testing.TB, namespace, name string, bound map[string]any) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	accounts := c.Admin.Resource(schema.GroupVersionResource{Version: "v1", Resource: "serviceaccounts"}).Namespace(namespace)
	if _, err := accounts.Get(ctx, name, metav1.GetOptions{}); err != nil {
		account := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": name, "namespace": namespace},
		}}
		if _, err := accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	request := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
		"metadata": map[string]any{"name": name, "namespace": namespace},
		"spec":     map[string]any{"expirationSeconds": int64(3600)},
	}}
	if bound != nil {
		request.Object["spec"].(map[string]any)["boundObjectRef"] = bound
	}
	got, err := accounts.Create(ctx, request, metav1.CreateOptions{}, "token")
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := unstructured.NestedString(got.Object, "status", "token")
	if err != nil || token == "" {
		t.Fatalf("token of %s/%s: %v", namespace, name, err)
	}
	return token
}

func (c *Cluster) writeKubeconfig(t testing.TB, name, token string) string {
	t.Helper()
	return c.write(t, name+"-"+rand.Text()[:6]+".kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: %[1]s
contexts: [{name: %[1]s, context: {cluster: test, user: %[1]s}}]
clusters: [{name: test, cluster: {server: "%[2]s", certificate-authority: "%[3]s"}}]
users: [{name: %[1]s, user: {token: "%[4]s"}}]
`, name, c.Config.Host, c.ca(), token))
}

func (c *Cluster) ca() string { return filepath.Join(c.dir, "certs", "apiserver.crt") }

func (c *Cluster) auditLog() string { return filepath.Join(c.dir, "audit.log") }

func (c *Cluster) write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// signingKey is a key for the tokens of service accounts.
func signingKey(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
