//go:build egress

package egress

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// spaces gives each node a network namespace with two interfaces: one to the
// world with mail and proxies, one to the other nodes. Two bridges join them, a third
// takes the half of the nodes' interfaces that is cut off: nobody is told, packets just vanish.
func (w *world) spaces() {
	w.t.Helper()
	if os.Geteuid() != 0 {
		unable(w.t, fmt.Errorf("network namespaces need root"))
	}
	if _, err := exec.LookPath("ip"); err != nil {
		unable(w.t, err)
	}
	id := fmt.Sprintf("gw%x", os.Getpid()&0xfff)
	w.space = id
	w.t.Cleanup(func() {
		for i := range w.nodes {
			_ = w.ip("netns del %s-%d", id, i)
		}
		for _, b := range []string{"m", "a", "b"} {
			_ = w.ip("link del %s%s", id, b)
		}
	})
	for _, b := range []string{"m", "a", "b"} {
		if err := w.ip("link add name %s%s type bridge", id, b); err != nil {
			unable(w.t, err)
		}
		w.must(w.ip("link set %s%s up", id, b))
	}
	for _, n := range []int{1, 50, 51, 52, 53} { // the name server's and the proxies'
		w.must(w.ip("addr add %s/24 dev %sm", w.outward(n), id))
	}
	for i := range w.nodes {
		ns := fmt.Sprintf("%s-%d", id, i)
		w.must(w.ip("netns add %s", ns))
		w.must(w.ip("-n %s link set lo up", ns))
		w.must(w.ip("link add %sm%d type veth peer name eth0 netns %s", id, i, ns))
		w.must(w.ip("link add %sc%d type veth peer name eth1 netns %s", id, i, ns))
		w.must(w.ip("link set %sm%d master %sm up", id, i, id))
		w.must(w.ip("link set %sc%d master %sa up", id, i, id))
		w.must(w.ip("-n %s addr add %s/24 dev eth0", ns, w.nodeAddress(i)))
		w.must(w.ip("-n %s addr add %s/24 dev eth1", ns, w.clusterAddress(i)))
		w.must(w.ip("-n %s link set eth0 up", ns))
		w.must(w.ip("-n %s link set eth1 up", ns))
	}
}

// ip runs the ip command.
func (w *world) ip(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", line, err, out)
	}
	return nil
}

// forwardDNS passes questions of the namespaces on to the simulator's name server, which is on loopback.
func (w *world) forwardDNS(address string) {
	w.t.Helper()
	in, err := net.ListenPacket("udp", address)
	w.must(err)
	w.t.Cleanup(func() { _ = in.Close() })
	server := w.dns
	w.dns = in.LocalAddr().String()
	go func() {
		for {
			question := make([]byte, 4096)
			n, from, err := in.ReadFrom(question)
			if err != nil {
				return
			}
			go func() {
				out, err := net.Dial("udp", server)
				if err != nil {
					return
				}
				defer out.Close()
				_ = out.SetDeadline(time.Now().Add(time.Second)) // whoever asks will ask again
				answer := make([]byte, 4096)
				if _, err := out.Write(question[:n]); err != nil {
					return
				}
				if n, err := out.Read(answer); err == nil {
					_, _ = in.WriteTo(answer[:n], from)
				}
			}()
		}
	}()
}

// separate cuts the nodes of the given numbers off from the others, and joins all others.
func (w *world) separate(nodes ...int) {
	w.t.Helper()
	for i := range w.nodes {
		side := "a"
		for _, n := range nodes {
			if n == i {
				side = "b"
			}
		}
		w.must(w.ip("link set %sc%d master %s%s", w.space, i, w.space, side))
	}
}

// before is what stands before the command of a node.
func (w *world) before(i int) []string {
	if w.space == "" {
		return nil
	}
	return []string{"ip", "netns", "exec", fmt.Sprintf("%s-%d", w.space, i)}
}
