package config

import "net"

func (d *decoder) peers(b *peersBody) *Peers {
	if b == nil {
		return nil
	}
	p := &Peers{
		Address: b.Address, Advertise: or(b.Advertise, b.Address),
		TLS:      d.oneOf(b.TLS, "files", "files", "connect", "off"),
		CertFile: or(b.Cert, ""), KeyFile: or(b.Key, ""), CAFile: or(b.CA, ""),
	}
	if _, port, err := net.SplitHostPort(p.Address); err != nil || !isPort(port, 1) {
		d.fail(b.Range, "peers: address is %q: want \"host:port\" or \":port\"", p.Address)
	}
	host, port, err := net.SplitHostPort(p.Advertise)
	if ip := net.ParseIP(host); err != nil || host == "" || !isPort(port, 1) || ip != nil && ip.IsUnspecified() {
		d.fail(b.Range,
			"peers: the other gateways cannot reach %q: want advertise = \"host:port\" with the address of this host",
			p.Advertise)
	}
	d.certificates(b, p)
	return p
}

// certificates checks that a peers block names all files that its tls setting needs, and no others.
func (d *decoder) certificates(b *peersBody, p *Peers) {
	files := p.CertFile != "" && p.KeyFile != "" && p.CAFile != ""
	switch {
	case p.TLS == "files" && !files:
		d.fail(b.Range,
			"peers block without cert_file, key_file and ca_file: want all three, "+
				"tls = \"connect\" for certificates of Consul's mesh, or "+
				"tls = \"off\" where only gateways reach the address")
	case p.TLS != "files" && (p.CertFile != "" || p.KeyFile != "" || p.CAFile != ""):
		d.fail(b.Range,
			"peers: tls is %q, but cert_file, key_file or ca_file is set: "+
				"remove the files or set tls = \"files\"", p.TLS)
	}
}
