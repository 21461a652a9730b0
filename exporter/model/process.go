package model

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// usage is what a server's process and its children use.
type usage struct {
	pid    int     // that listens; 0 where it is not known
	pids   []int   // it and all below it
	cpu    float64 // seconds
	memory float64 // bytes
}

// processes finds the process that listens where a server is asked, if it is on this machine. Its methods are called by one
// goroutine at a time.
type processes struct {
	root   string // of procfs
	socket string // that it listens on; empty for TCP
	port   int    // 0 where the server is elsewhere
	ip     netip.Addr

	found   usage
	started uint64 // of found.pid, by which another process with its number is told apart
	inodes  []string
	looked  time.Time

	counted struct { // what was published last of the process's CPU time
		pid     int
		started uint64
		cpu     float64
	}
}

// lookEvery is how often all processes are looked through: it takes some ten milliseconds where there are a thousand.
const lookEvery = 30 * time.Second

func newProcesses(root string, c *client) *processes {
	p := &processes{root: root, socket: c.socket}
	if c.socket != "" {
		return p
	}
	ip, err := netip.ParseAddr(c.url.Hostname())
	if c.url.Hostname() == "localhost" {
		ip, err = netip.IPv6Unspecified(), nil
	}
	if err != nil || !here(ip) {
		return p
	}
	p.ip = ip.Unmap()
	p.port, _ = strconv.Atoi(c.url.Port()) // a URL's port is a number
	switch {
	case c.url.Port() != "":
	case c.url.Scheme == "https":
		p.port = 443
	default:
		p.port = 80
	}
	return p
}

// here reports whether an address is one of this machine.
func here(ip netip.Addr) bool {
	if ip.IsLoopback() || ip.IsUnspecified() {
		return true
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addresses, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr().Unmap() == ip.Unmap()
	})
}

// usage returns what the server's process and its children use now; nothing where it cannot be told.
func (p *processes) usage(now time.Time) usage {
	if p.port == 0 && p.socket == "" {
		return usage{}
	}
	fs, err := procfs.NewFS(p.root)
	if err != nil {
		return usage{}
	}
	inodes := p.listeners()
	changed := !slices.Equal(inodes, p.inodes) || p.found.pid != 0 && !p.same(fs)
	if changed || now.Sub(p.looked) >= lookEvery {
		p.look(fs, inodes)
		p.inodes, p.looked = inodes, now
	}
	u := usage{pid: p.found.pid}
	for _, pid := range p.found.pids {
		proc, err := fs.Proc(pid)
		if err != nil {
			continue
		}
		stat, err := proc.Stat()
		if err != nil {
			continue
		}
		u.pids = append(u.pids, pid)
		// With those that it has waited for: the time of a child that ends goes on in its parent's.
		u.cpu += (float64(stat.UTime) + float64(stat.STime) + float64(stat.CUTime) + float64(stat.CSTime)) / userHZ
		u.memory += float64(stat.ResidentMemory())
	}
	if len(u.pids) == 0 {
		return usage{}
	}
	// A child that ends between two files that are read is in neither, and one whose parent ended before it is waited for by nobody
	// here: to rate() a counter that steps back began at 0, and all that it has would count again.
	if c := &p.counted; c.pid == u.pid && c.started == p.started {
		u.cpu = max(u.cpu, c.cpu)
	}
	p.counted.pid, p.counted.started, p.counted.cpu = u.pid, p.started, u.cpu
	return u
}

// userHZ is the unit of times in procfs, which is the same on all that Linux runs on.
const userHZ = 100

// same reports whether the process that was found is still that one.
func (p *processes) same(fs procfs.FS) bool {
	proc, err := fs.Proc(p.found.pid)
	if err != nil {
		return false
	}
	stat, err := proc.Stat()
	return err == nil && stat.Starttime == p.started
}

// look finds the process that has a socket of these inodes open, and its children.
func (p *processes) look(fs procfs.FS, inodes []string) {
	p.found, p.started = usage{}, 0
	if len(inodes) == 0 {
		return
	}
	all, err := fs.AllProcs()
	if err != nil {
		return
	}
	parents, started := map[int]int{}, map[int]uint64{}
	var holders []int
	for _, proc := range all {
		stat, err := proc.Stat()
		if err != nil {
			continue // it has ended
		}
		parents[proc.PID], started[proc.PID] = stat.PPID, stat.Starttime
		if p.holds(proc.PID, inodes) {
			holders = append(holders, proc.PID)
		}
	}
	if len(holders) == 0 {
		return // or they are somebody else's, whose files may not be looked at
	}
	// Of several that have it open, such as a server that forks its workers, the one that is above the others.
	slices.SortFunc(holders, func(a, b int) int { return depth(parents, a) - depth(parents, b) })
	p.found.pid, p.started = holders[0], started[holders[0]]
	for pid := range parents {
		for at, steps := pid, 0; at != 0 && steps <= len(parents); at, steps = parents[at], steps+1 {
			if slices.Contains(holders, at) {
				p.found.pids = append(p.found.pids, pid)
				break
			}
		}
	}
	slices.Sort(p.found.pids)
}

func depth(parents map[int]int, pid int) int {
	n := 0
	for ; pid != 0 && n <= len(parents); pid = parents[pid] {
		n++
	}
	return n
}

// holds reports whether a process has one of the sockets open.
func (p *processes) holds(pid int, inodes []string) bool {
	dir := filepath.Join(p.root, strconv.Itoa(pid), "fd")
	entries, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer entries.Close()
	names, _ := entries.Readdirnames(-1) // what there is before an error counts
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if inode, found := strings.CutPrefix(target, "socket:["); found && slices.Contains(inodes, strings.TrimSuffix(inode, "]")) {
			return true
		}
	}
	return false
}

// listeners are the inodes of the sockets that listen where the server is asked, sorted.
func (p *processes) listeners() []string {
	var inodes []string
	if p.socket != "" {
		p.lines("unix", func(field []string) {
			// Num RefCount Protocol Flags Type St Inode Path
			if len(field) >= 8 && field[7] == p.socket && field[3] == "00010000" {
				inodes = append(inodes, field[6])
			}
		})
	} else {
		for _, table := range []string{"tcp", "tcp6"} {
			p.lines(table, func(field []string) {
				// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
				if len(field) >= 10 && field[3] == "0A" && p.at(field[1]) {
					inodes = append(inodes, field[9])
				}
			})
		}
	}
	slices.Sort(inodes)
	return slices.Compact(inodes)
}

// at reports whether an address of procfs, such as 0100007F:1F90, is where the server is asked.
func (p *processes) at(address string) bool {
	ip, port, _ := strings.Cut(address, ":")
	if n, err := strconv.ParseUint(port, 16, 16); err != nil || int(n) != p.port {
		return false
	}
	local, ok := parseAddress(ip)
	return ok && (local.IsUnspecified() || p.ip.IsUnspecified() || local == p.ip)
}

// parseAddress reads an address of procfs: words of four bytes in the order of a little-endian machine, as all are that this is
// built for.
func parseAddress(text string) (netip.Addr, bool) {
	var b []byte
	for i := 0; i+8 <= len(text); i += 8 {
		word, err := strconv.ParseUint(text[i:i+8], 16, 32)
		if err != nil {
			return netip.Addr{}, false
		}
		b = append(b, byte(word), byte(word>>8), byte(word>>16), byte(word>>24))
	}
	ip, ok := netip.AddrFromSlice(b)
	return ip.Unmap(), ok && len(text)%8 == 0
}

// lines calls f for each line of a table of the network, without its head.
func (p *processes) lines(table string, f func(fields []string)) {
	file, err := os.Open(filepath.Join(p.root, "net", table))
	if err != nil {
		return // none of that kind, such as without IPv6
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Scan()
	for scanner.Scan() {
		line := scanner.Text()
		if table != "unix" && !strings.Contains(line, " 0A ") { // few of many listen
			continue
		}
		f(strings.Fields(line))
	}
}
