package main

import (
	"encoding/json"
	"net"
	"os"
	"slices"
	"strconv"

	"aliquot.example/e2e/rack"
	"aliquot.example/e2e/rack/wire"
)

// admit accepts or rejects a new client. It waits while the server starts.
func (s *gpuServer) admit(conn *net.UnixConn, pid int, info wire.Client) {
	<-s.ready
	defer s.exitWhenIdle()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending--
	refuse := func(code int, why string) {
		s.log.Printf("Client %d refused: %s", pid, why)
		_ = json.NewEncoder(conn).Encode(wire.Welcome{Error: code, Message: why})
		conn.Close()
	}
	if len(s.fault) > 0 {
		refuse(wire.MPSNotReady, "the MPS server is in FAULT until its clients have exited")
		return
	}
	devices := s.file.Select(s.devices, info.Visible)
	devices = s.served(devices)
	if len(devices) == 0 || slices.ContainsFunc(devices, s.lost) {
		refuse(wire.NoDevice, "no CUDA-capable device is detected")
		return
	}
	for _, d := range devices {
		if s.users(d.UUID) >= maxClients(d, s.file.Driver.Get("cuda")) {
			refuse(wire.MPSMaxClients, "the device has its most MPS clients")
			return
		}
	}
	c := &client{id: s.nextID, pid: pid, info: info, conn: conn}
	s.nextID++
	for ordinal, d := range devices {
		c.devices = append(c.devices, s.granted(d, ordinal, info))
		c.held = append(c.held, wire.Holder{MPS: true, ServerPID: os.Getpid(), GI: d.GI, CI: d.CI})
	}
	s.clients[c.id] = c
	s.declare(c)
	s.log.Printf("New client %d connected", pid)
	s.log.Printf("Volta MPS: status of client {%d, %d} is ACTIVE", pid, c.id)
	go s.attend(c)
}

// lost reports whether a device's GPU has fallen off the bus since the server started.
func (s *gpuServer) lost(d wire.Device) bool {
	file, err := rack.Load(s.rack)
	if err != nil {
		return false
	}
	g := file.GPU(physical(d))
	return g == nil || g.Get("lost") == "yes" || g.Get("absent") == "yes"
}

// served returns the devices that this server owns.
func (s *gpuServer) served(devices []wire.Device) (out []wire.Device) {
	for _, d := range devices {
		for _, own := range s.devices {
			if own.UUID == d.UUID {
				out = append(out, d)
			}
		}
	}
	return out
}

func (s *gpuServer) users(uuid string) (n int) {
	for _, c := range s.clients {
		for _, d := range c.devices {
			if d.UUID == uuid {
				n++
			}
		}
	}
	return n
}

// granted fills in what the client may use. A client's settings can only lower the server's.
func (s *gpuServer) granted(d wire.Device, ordinal int, info wire.Client) wire.Device {
	pct := s.percentage
	if own, err := strconv.ParseFloat(info.Percentage, 64); err == nil && own > 0 && own < pct {
		pct = own
	}
	d.Units = portion(d, pct)
	d.Limit = lower(limitOf(limits(info.MemoryLimit), ordinal, d.UUID), limitOf(s.limits, ordinal, d.UUID))
	return d
}

func (s *gpuServer) declare(c *client) {
	for i, d := range c.devices {
		if err := c.held[i].Declare(s.rack, physical(d), c.pid); err != nil {
			s.log.Print(err)
		}
	}
}

// attend serves one client until it disconnects.
func (s *gpuServer) attend(c *client) {
	out, in := json.NewEncoder(c.conn), json.NewDecoder(c.conn)
	_ = out.Encode(wire.Welcome{Server: os.Getpid(), Devices: c.devices, Shm: s.shm, ShmText: s.text})
	for {
		var request wire.Request
		if err := in.Decode(&request); err != nil {
			break
		}
		if err := out.Encode(s.do(c, request)); err != nil {
			break
		}
	}
	c.conn.Close()
	s.mu.Lock()
	delete(s.clients, c.id)
	for _, d := range c.devices {
		wire.Withdraw(s.rack, physical(d), c.pid)
	}
	s.log.Printf("Client %d disconnected", c.pid)
	s.recover()
	s.mu.Unlock()
	s.exitWhenIdle()
}

func (s *gpuServer) do(c *client, r wire.Request) wire.Reply {
	if r.Op == "fault" {
		s.fail(c)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.condemned != 0 {
		return wire.Reply{Error: c.condemned, Message: "the context is lost"}
	}
	if r.Device < 0 || r.Device >= len(c.devices) {
		return wire.Reply{Error: wire.InvalidDevice, Message: "invalid device ordinal"}
	}
	h, d := &c.held[r.Device], c.devices[r.Device]
	if s.lost(d) {
		return wire.Reply{Error: wire.LaunchFailed, Message: "the GPU is lost"}
	}
	switch r.Op {
	case "alloc":
		if (d.Limit > 0 && h.MiB+r.MiB > d.Limit) || s.allocated(d.UUID)+r.MiB > d.Memory ||
			s.pastGroup(c, d.UUID, r.MiB) {
			return wire.Reply{Error: wire.OutOfMemory, Message: "out of memory"}
		}
		h.MiB += r.MiB
	case "free":
		h.MiB = max(0, h.MiB-r.MiB)
	case "load":
		h.SM, h.Memory = r.SM, r.Memory
	}
	s.declare(c)
	return wire.Reply{}
}

// pastGroup reports whether an allocation would take a client's cgroup over the driver's limit for
// a device.
func (s *gpuServer) pastGroup(c *client, uuid string, more int) bool {
	group, limit, ok := wire.Limit(s.rack, uuid, c.pid)
	if !ok {
		return false
	}
	for _, other := range s.clients {
		for i, d := range other.devices {
			if d.UUID == uuid && wire.InGroup(group, other.pid) {
				more += other.held[i].MiB
			}
		}
	}
	return more > limit
}

// allocated returns what the server and its clients hold on one device, in MiB.
func (s *gpuServer) allocated(uuid string) int {
	sum := serverMemory
	for _, c := range s.clients {
		for i, d := range c.devices {
			if d.UUID == uuid {
				sum += c.held[i].MiB
			}
		}
	}
	return sum
}

// fail puts the server into FAULT: all clients lose their contexts that use a GPU which the culprit
// used, or a GPU that is connected to one by a common client. The server accepts no new client
// until they have all exited. Without a culprit all clients are affected.
func (s *gpuServer) fail(culprit *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hit := map[string]bool{}
	for _, c := range s.clients {
		if culprit == nil || c == culprit {
			c.mark(hit)
		}
	}
	if len(hit) == 0 {
		return
	}
	for before := 0; before != len(hit); {
		before = len(hit)
		for _, c := range s.clients {
			if c.uses(hit) {
				c.mark(hit)
			}
		}
	}
	s.log.Print("Volta MPS: Server is handling a fatal GPU error.")
	for _, c := range s.clients {
		if c.uses(hit) && c.condemned == 0 {
			c.condemned = wire.LaunchFailed
			s.log.Printf("Volta MPS: status of client {%d, %d} is INACTIVE", c.pid, c.id)
		}
	}
	for uuid := range hit {
		s.fault[uuid] = true
	}
}

func (c *client) uses(devices map[string]bool) bool {
	return slices.ContainsFunc(c.devices, func(d wire.Device) bool { return devices[d.UUID] })
}

func (c *client) mark(devices map[string]bool) {
	for _, d := range c.devices {
		devices[d.UUID] = true
	}
}

// recover creates new contexts once the last client of the devices in FAULT has exited. The caller
// must hold s.mu.
func (s *gpuServer) recover() {
	if len(s.fault) == 0 {
		return
	}
	for _, c := range s.clients {
		if c.uses(s.fault) {
			return
		}
	}
	for i, d := range s.devices {
		if s.fault[d.UUID] {
			s.log.Printf("Volta MPS: Destroy server context on device %d", i)
			s.log.Printf("Volta MPS: Creating server context on device %d", i)
		}
	}
	clear(s.fault)
}

// terminate terminates the work of one client. The caller must hold s.mu.
func (s *gpuServer) terminate(pid int) bool {
	found := false
	for _, c := range s.clients {
		if c.pid == pid {
			c.condemned = wire.MPSClientTerminal
			found = true
		}
	}
	return found
}
