package config

import (
	"strings"
	"time"
)

func (d *decoder) sleep(b *sleepBody) *Sleep {
	if b == nil {
		return nil
	}
	s := &Sleep{Port: or(b.Port, 0), Level: or(b.Level, 1), Timeout: d.duration(b.Timeout, time.Minute)}
	switch {
	case s.Port < 0 || s.Port > 65535:
		d.fail(b.Range, "port is %d: want 1 to 65535, or 0 for the replica's own port", s.Port)
	case s.Level != 1 && s.Level != 2:
		d.fail(b.Range,
			"level is %d: want 1, which keeps the weights in the host's memory, or 2, which loads them again", s.Level)
	case s.Timeout < time.Second:
		d.fail(b.Range, "timeout is %s: want at least \"1s\"", s.Timeout)
	}
	return s
}

func (d *decoder) engine(b *engineBody) Engine {
	if b == nil {
		b = &engineBody{}
	}
	e := Engine{
		Metrics: d.text(b.Metrics, "auto"), Port: or(b.Port, 0), Interval: d.duration(b.Interval, time.Second),
		KVTokens: or(b.KV, 0), MaxPrompt: or(b.MaxModelLen, 0), Join: or(b.Join, false),
		Salt: d.oneOf(b.Salt, "off", "off", "tenant") == "tenant", SaltKey: or(b.SaltKey, ""),
	}
	switch {
	case e.Metrics != "auto" && e.Metrics != "off" && !strings.HasPrefix(e.Metrics, "/"):
		d.fail(b.Metrics.Range, "metrics is %q: want \"auto\", \"off\" or a path such as \"/metrics\"", e.Metrics)
	case e.Port < 0 || e.Port > 65535:
		d.fail(b.Range, "metrics_port is %d: want 1 to 65535, or 0 for the replica's own port", e.Port)
	case e.SaltKey != "" && !e.Salt:
		d.fail(b.Range, "cache_salt_key_file has no effect without cache_salt = \"tenant\"")
	case e.KVTokens < 0 || e.MaxPrompt < 0:
		d.fail(b.Range, "kv_tokens and max_model_len must not be negative")
	case b.Interval != nil && e.Interval < 100*time.Millisecond:
		d.fail(b.Interval.Range, "interval is %s: want at least \"100ms\"", e.Interval)
	}
	return e
}
