package kedatest

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

var update = flag.Bool("update", false, "generate the code anew")

const (
	protocol  = "externalscaler.proto"
	generated = "../externalscaler"
)

// TestGenerated: the protocol is that of the KEDA in go.mod, and the code is what the generators in go.mod make of it. The
// compiler is protocompile, a module, so no protoc is needed.
func TestGenerated(t *testing.T) {
	source := filepath.Join(moduleFolder(t, "github.com/kedacore/keda/v2"), "pkg/scalers/externalscaler", protocol)
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	same(t, protocol, text)

	compiler := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{filepath.Dir(source)}},
		SourceInfoMode: protocompile.SourceInfoStandard, // comments
	}
	files, err := compiler.Compile(t.Context(), protocol)
	if err != nil {
		t.Fatal(err)
	}
	parameter := "paths=source_relative,M" + protocol + "=flyball/actuators/keda/externalscaler"
	request, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{protocol}, Parameter: &parameter,
		ProtoFile: []*descriptorpb.FileDescriptorProto{protodesc.ToFileDescriptorProto(files[0])},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, generator := range []string{"protoc-gen-go", "protoc-gen-go-grpc"} {
		cmd := exec.CommandContext(t.Context(), "go", "tool", generator)
		cmd.Stdin, cmd.Stderr = bytes.NewReader(request), os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", generator, err)
		}
		var response pluginpb.CodeGeneratorResponse
		if err := proto.Unmarshal(out, &response); err != nil {
			t.Fatalf("%s: %v", generator, err)
		}
		if response.GetError() != "" || len(response.GetFile()) != 1 {
			t.Fatalf("%s: %d files, error %q", generator, len(response.GetFile()), response.GetError())
		}
		same(t, response.GetFile()[0].GetName(), []byte(response.GetFile()[0].GetContent()))
	}
}

// same compares a file of the generated code, or writes it.
func same(t *testing.T, name string, want []byte) {
	t.Helper()
	path := filepath.Join(generated, name)
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the protocol of KEDA in go.mod generates: go test -run TestGenerated -update", path)
	}
}

func moduleFolder(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatalf("go list -m %s: %v", path, err)
	}
	return strings.TrimSpace(string(out))
}
