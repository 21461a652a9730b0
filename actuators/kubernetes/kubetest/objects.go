package kubetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// Apply brings the objects of manifest files to the cluster, in their order, as kubectl apply --server-side does. What is
// there already becomes what the file says. Pairs of old and new text in edits change the files first; an edit of what is in
// none of them fails the test.
func (c *Cluster) Apply(t testing.TB, files []string, edits ...string) {
	t.Helper()
	edited := make([]bool, len(edits)/2)
	var text strings.Builder
	for _, name := range files {
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for e := range edited {
			edited[e] = edited[e] || bytes.Contains(file, []byte(edits[2*e]))
			file = bytes.ReplaceAll(file, []byte(edits[2*e]), []byte(edits[2*e+1]))
		}
		text.Write(file)
		text.WriteString("\n---\n")
	}
	for e, done := range edited {
		if !done {
			t.Fatalf("%v have no %q, which was to become %q", files, edits[2*e], edits[2*e+1])
		}
	}
	c.ApplyText(t, text.String())
}

// ApplyText does what Apply does with the text of manifests.
func (c *Cluster) ApplyText(t testing.TB, manifests string) {
	t.Helper()
	client, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client))
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifests)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return
		}
		object := &unstructured.Unstructured{}
		if err == nil {
			err = utilyaml.Unmarshal(document, &object.Object)
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			c.apply(t, mapper, object)
		}
	}
}

// apply brings one object to the cluster. It tries for ten seconds: a resource that a definition has just made is not served
// at once.
func (c *Cluster) apply(t testing.TB, mapper *restmapper.DeferredDiscoveryRESTMapper, object *unstructured.Unstructured) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		err := func() error {
			kind := object.GroupVersionKind()
			mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
			if err != nil {
				return err
			}
			var resource dynamic.ResourceInterface = c.Admin.Resource(mapping.Resource)
			if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
				resource = c.Admin.Resource(mapping.Resource).Namespace(object.GetNamespace())
			}
			_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: "kubetest", Force: true})
			return err
		}()
		if err == nil {
			return
		}
		mapper.Reset()
		select {
		case <-ctx.Done():
			t.Fatalf("apply %s %s: %v", object.GetKind(), object.GetName(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Write is a request that asked for a change, as the apiserver's audit log has it.
type Write struct {
	Verb     string // create, update, patch, delete
	Resource string // with group and subresource: deployments.apps/scale
	Name     string // namespace/name
	DryRun   bool   // of a create, an update or a patch
	Code     int    // the HTTP status of the answer
	Body     string // the object or the patch that was sent, as JSON
	Pod      string // whose token it came with, if that was bound to one

	At time.Time // when the apiserver received it
}

// Writes returns what a user has asked the apiserver to change, oldest first. One that was answered just now may be missing.
func (c *Cluster) Writes(t testing.TB, user string) (all []Write) {
	t.Helper()
	log, err := os.ReadFile(c.auditLog())
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(log) {
		if !bytes.HasSuffix(line, []byte("\n")) { // being written
			break
		}
		var event struct {
			Verb, RequestURI string
			User             struct {
				Username string
				Extra    map[string][]string
			}
			ObjectRef      struct{ Resource, Subresource, APIGroup, Namespace, Name string }
			ResponseStatus struct{ Code int }
			RequestObject  json.RawMessage

			RequestReceivedTimestamp time.Time
		}
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("audit log: %v", err)
		}
		if event.User.Username != user {
			continue
		}
		ref := event.ObjectRef
		resource := ref.Resource
		if ref.APIGroup != "" {
			resource += "." + ref.APIGroup
		}
		if ref.Subresource != "" {
			resource += "/" + ref.Subresource
		}
		all = append(all, Write{
			Verb: event.Verb, Resource: resource, Name: ref.Namespace + "/" + ref.Name, DryRun: strings.Contains(event.RequestURI, "dryRun=All"),
			Code: event.ResponseStatus.Code, Body: string(event.RequestObject),
			Pod: strings.Join(event.User.Extra["authentication.kubernetes.io/pod-name"], ""), At: event.RequestReceivedTimestamp,
		})
	}
	return all
}
