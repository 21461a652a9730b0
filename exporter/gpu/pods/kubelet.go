package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// maxMessage is what the kubelet's own clients take at most. 250 pods with 8 GPUs each are some 200 kB.
const maxMessage = 16 << 20

// errNoSocket says that there is no socket: no kubelet runs here, or it starts just now.
var errNoSocket = errors.New("there is no socket")

// list asks the kubelet which container has which device. Each call has a connection of its own: a kubelet that
// restarts makes a new socket, and a connection every 10 s costs it nothing.
func list(ctx context.Context, socket string, timeout time.Duration) (*podresources.ListPodResourcesResponse, error) {
	info, err := os.Stat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", socket, errNoSocket)
	case err != nil:
		return nil, explain(socket, err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s is no socket but %s", socket, kind(info.Mode()))
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	var mu sync.Mutex
	var dialed error // why there is no connection, which grpc passes on as text alone
	conn, err := grpc.NewClient("passthrough:///kubelet",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
			mu.Lock()
			defer mu.Unlock()
			dialed = err
			return c, err
		}),
	)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	reply, err := podresources.NewPodResourcesListerClient(conn).List(ctx, &podresources.ListPodResourcesRequest{})
	if err == nil {
		return reply, nil
	}
	mu.Lock()
	defer mu.Unlock()
	if dialed != nil {
		return nil, explain(socket, dialed)
	}
	switch s := status.Convert(err); s.Code() {
	case codes.DeadlineExceeded:
		return nil, fmt.Errorf("the kubelet did not answer in %s", timeout)
	case codes.Unimplemented:
		return nil, fmt.Errorf("the kubelet has no pod-resources API v1, which is there from Kubernetes 1.20 on: %s", s.Message())
	case codes.ResourceExhausted:
		return nil, fmt.Errorf("the kubelet's answer is not to be had: %s", s.Message()) // too large, or asked for too often
	default:
		return nil, fmt.Errorf("the kubelet answers %s: %s", s.Code(), s.Message())
	}
}

// explain says what a person can do about a socket that cannot be used.
func explain(socket string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: %w for user %d: the socket is root's, so run as user 0, which needs no capability for it", socket, fs.ErrPermission, os.Geteuid())
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w: nobody listens: the kubelet has stopped or restarts", socket, syscall.ECONNREFUSED)
	default:
		return fmt.Errorf("%s: %w", socket, err)
	}
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m.IsRegular():
		return "a file"
	default:
		return m.Type().String()
	}
}
