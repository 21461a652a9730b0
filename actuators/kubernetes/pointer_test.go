package kubernetes

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPointer(t *testing.T) {
	object := map[string]any{
		"spec": map[string]any{
			"replicas": int64(3), "none": nil, "text": "3", "half": 1.5, "whole": 2.0, "many": int64(1) << 40, "under": int64(-1), "a/b~c": int64(7),
			"groups": []any{
				map[string]any{"groupName": "cpu", "replicas": int64(1)},
				map[string]any{"groupName": "gpu", "replicas": int64(4)},
				map[string]any{"groupName": "new"},
			},
		},
	}
	for _, tt := range []struct {
		pointer, part string
		want          place
		replicas      int
		set           bool
		err           string
	}{
		{pointer: "/spec/replicas", want: place{path: "/spec/replicas", value: int64(3)}, replicas: 3, set: true},
		{pointer: "/spec/whole", want: place{path: "/spec/whole", value: 2.0}, replicas: 2, set: true},
		{pointer: "/spec/none", want: place{path: "/spec/none"}},
		{pointer: "/spec/gone", want: place{path: "/spec/gone"}},
		{pointer: "/gone/replicas", want: place{path: "/gone/replicas"}},
		{pointer: "/spec/a~1b~0c", want: place{path: "/spec/a~1b~0c", value: int64(7)}, replicas: 7, set: true},
		{
			pointer: "/spec/groups/{groupName}/replicas", part: "gpu", replicas: 4, set: true,
			want: place{path: "/spec/groups/1/replicas", guard: "/spec/groups/1/groupName", value: int64(4)},
		},
		{
			pointer: "/spec/groups/{groupName}/replicas", part: "new",
			want: place{path: "/spec/groups/2/replicas", guard: "/spec/groups/2/groupName"},
		},
		{pointer: "/spec/groups/{groupName}/replicas", part: "tpu", err: `/spec/groups has no groupName "tpu": it has cpu, gpu, new`},
		{pointer: "/spec/replicas/{groupName}/replicas", part: "tpu", err: `/spec/replicas has no groupName "tpu": it has none`},
		{pointer: "/spec/text", err: "/spec/text is 3, which is no number of replicas"},
		{pointer: "/spec/half", err: "/spec/half is 1.5, which is no number of replicas"},
		{pointer: "/spec/many", err: "which is no number of replicas"},
		{pointer: "/spec/under", err: "/spec/under is -1, which is no number of replicas"},
		{pointer: "spec/replicas", err: "is not a JSON pointer"},
		{pointer: "/spec//replicas", err: "has an empty step"},
		{pointer: "/{a}/replicas", err: "has to be between fields"},
		{pointer: "/a/{b}", err: "has to be between fields"},
		{pointer: "/a/{b}/c/{d}/e", err: "names elements of two lists"},
	} {
		t.Run(tt.pointer+" "+tt.part, func(t *testing.T) {
			p, err := parsePointer(tt.pointer)
			var got place
			if err == nil {
				got, err = p.find(object, tt.part)
			}
			var n int
			var set bool
			if err == nil {
				n, set, err = got.replicas()
			}
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(place{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if n != tt.replicas || set != tt.set {
				t.Errorf("%d replicas, set %v; want %d, %v", n, set, tt.replicas, tt.set)
			}
		})
	}
}
