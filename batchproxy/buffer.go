package batchproxy

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// maxPooled is the largest buffer that is kept for reuse: the bodies of ordinary requests and batches, and of an image in JSON.
const maxPooled = 4 << 20

// buffers is a pool of buffers, and the count of the bytes that clients' bodies take.
type buffers struct {
	pool sync.Pool
	held atomic.Int64
}

// buffer is bytes that several may read and the last one gives back. It starts with one reference.
type buffer struct {
	b        []byte
	refs     atomic.Int32
	reserved int64 // part of from.held that is given back with the buffer
	from     *buffers
}

func (p *buffers) get() *buffer {
	b, ok := p.pool.Get().(*buffer)
	if !ok {
		b = &buffer{from: p}
	}
	b.b = b.b[:0]
	b.refs.Store(1)
	return b
}

// release gives up a reference.
func (b *buffer) release() {
	if b == nil || b.refs.Add(-1) > 0 {
		return
	}
	b.from.held.Add(-b.reserved)
	b.reserved = 0
	if cap(b.b) <= maxPooled {
		b.from.pool.Put(b)
	}
}

// reserve asks for room for more bytes, of which all buffers together may hold so many.
func (b *buffer) reserve(bytes, limit int64) error {
	if b.from.held.Add(bytes) > limit {
		b.from.held.Add(-bytes)
		return errNoRoom
	}
	b.reserved += bytes
	return nil
}

// inOneWrite is up to how many bytes a body goes to a replica in one system call with the headers, which wakes the replica once, not twice:
// net/http does that with what it knows to be in memory, and a copy that is nobody else's is. It is about what the buffers of a
// connection take anyway, and more than most requests that are not tensors.
const inOneWrite = 16 << 10

// reader is the buffer as the body of a request to an upstream. Unless it is small, it holds a reference until it is closed, which a
// transport may do after it has returned the answer.
func (b *buffer) reader() io.ReadCloser {
	if len(b.b) <= inOneWrite {
		return io.NopCloser(bytes.NewReader(bytes.Clone(b.b)))
	}
	b.refs.Add(1)
	r := &bufferReader{buffer: b}
	r.Reset(b.b)
	return r
}

type bufferReader struct {
	bytes.Reader
	buffer *buffer
	once   sync.Once
}

func (r *bufferReader) Close() error {
	r.once.Do(r.buffer.release)
	return nil
}

var (
	errTooLarge = errors.New("larger than the limit")
	errNoRoom   = errors.New("the requests held have no room for more")
)

// firstGrant is how much room a body gets on its sender's word alone. Then it gets as much again as has come, so that
// nobody takes up room by announcing much and sending nothing.
const firstGrant = 64 << 10

// crowdedGrant is firstGrant where more than half of the room is taken: clients that announce a body and send none must not
// keep those out who send theirs.
const crowdedGrant = 4 << 10

// readFrom fills the buffer with all that r has, of which size bytes are expected (-1 if not known) and up to limit are
// taken. Where room is not 0 the bytes are reserved, and count among those of all buffers.
func (b *buffer) readFrom(r io.Reader, size, limit, room int64) error {
	if size > limit {
		return errTooLarge
	}
	first := int64(firstGrant)
	if size < 0 {
		size, first = limit, crowdedGrant
	}
	if room > 0 && b.from.held.Load() > room/2 {
		first = crowdedGrant
	}
	var granted int64
	for {
		have := int64(len(b.b))
		if have > limit {
			return errTooLarge
		}
		if have >= granted {
			upTo := have + max(min(max(first, have), size-have), 0)
			if room > 0 {
				if err := b.reserve(upTo-granted, room); err != nil {
					return err
				}
			}
			granted = upTo
			b.b = slices.Grow(b.b, int(upTo-have)+1) // one more, to see the end without growing
		}
		n, err := r.Read(b.b[have : granted+1])
		b.b = b.b[:have+int64(n)]
		if errors.Is(err, io.EOF) {
			if int64(len(b.b)) > limit {
				return errTooLarge
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
