package drill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// rolling replaces one process after the other; before is done once, first.
func rolling(s scene, what string, before func(*run)) []step {
	var out []step
	for i, region := range s.regions {
		for _, name := range []string{"1", "2", "3", "gateway"} {
			name := region + "/" + name
			pause := time.Second
			if i == 0 && name == region+"/1" {
				pause = 0
			}
			out = append(out, step{after: pause, long: true, say: what + " " + name, open: what + " " + region, do: func(ctx context.Context, r *run) error {
				before(r)
				if err := r.own.end(ctx, name, syscall.SIGTERM); err != nil {
					return err
				}
				if err := r.own.start(ctx, name); err != nil {
					return err
				}
				// The next one only when this one is a member again.
				return poll(ctx, time.Minute, func(ctx context.Context) error { return well(ctx, r.cluster, region) })
			}})
		}
		last := &out[len(out)-1]
		last.close, last.late = what+" "+region, true
	}
	return out
}

// server is a Redis of a region.
type server struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func startRedis(l *local, region int) (*server, error) {
	dir := filepath.Join(l.dir, fmt.Sprintf("redis-%d", region))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	host, port := "127.0.0.1", fmt.Sprint(l.port+30+region)
	s := &server{cmd: exec.Command("redis-server", "--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", dir), done: make(chan struct{})}
	s.cmd.SysProcAttr = ownGroup()
	started := make(chan error)
	starts() <- func() { started <- s.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	go func() {
		_ = s.cmd.Wait() // how it ended is of no interest
		close(s.done)
	}()
	return s, nil
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.done
}

// redisLoss breaks the caches of one region.
func redisLoss() Drill {
	servers := make(map[int]*server)
	return Drill{
		Name:           "redis-loss",
		Does:           "stops the Redis of one region in its tracks (SIGSTOP), lets it go on, then kills it and starts it empty",
		Expects:        "nobody waits and no answer is stale for it: Redis is a cache, and a breaker takes it out of the path",
		Local:          "it stops and kills redis-server processes",
		ShoppersWithin: 10 * time.Second, RecoversWithin: 45 * time.Second,
		able: func(Config) error {
			return onPath("redis-server", "install Redis (Debian: deploy/services/install redis-server)")
		},
		set: func(_ context.Context, s scene, l *local) error {
			for i, region := range localRegions {
				l.more[region] = append(l.more[region], "--redis", "redis://"+l.redis(i))
				var err error
				if servers[i], err = startRedis(l, i); err != nil {
					return err
				}
				l.cleanup = append(l.cleanup, func() { servers[i].kill() })
			}
			at := indexOf(localRegions, s.victim())
			l.onHeal(func(context.Context) error {
				_ = servers[at].cmd.Process.Signal(syscall.SIGCONT) // it may be gone
				select {
				case <-servers[at].done:
				default:
					return nil
				}
				var err error
				servers[at], err = startRedis(l, at)
				return err
			})
			return nil
		},
		steps: func(s scene) []step {
			at := indexOf(localRegions, s.victim())
			stopped, dead := "Redis of "+s.victim()+" stopped", "Redis of "+s.victim()+" dead"
			return []step{
				{say: "stop the Redis of " + s.victim(), open: stopped, do: func(context.Context, *run) error { return servers[at].cmd.Process.Signal(syscall.SIGSTOP) }},
				{after: s.hold / 2, say: "let it go on", close: stopped, do: func(context.Context, *run) error { return servers[at].cmd.Process.Signal(syscall.SIGCONT) }},
				{after: 2 * time.Second, say: "kill it", open: dead, do: func(context.Context, *run) error {
					servers[at].kill()
					return nil
				}},
				{after: s.hold / 2, say: "start it empty", close: dead, do: func(_ context.Context, r *run) (err error) {
					servers[at], err = startRedis(r.own, at)
					return err
				}},
			}
		},
	}
}

// diskSize is that of the small disk: a node's log, its database and room to
// spare.
const diskSize = "512m"

// fullDisk fills the disk of one node.
func fullDisk() Drill {
	filler := func(l *local, node string) string {
		return filepath.Join(l.data(node), "..", filepath.Base(l.data(node))+".disk", "filler")
	}
	return Drill{
		Name:           "full-disk",
		Does:           "gives one node a small disk of its own (a tmpfs) and fills it with a file; after the hold the file goes, and the node is started again if it has ended",
		Expects:        "the node may refuse or end; its region goes on with the other two, and the node comes back by itself once there is room",
		Local:          "it mounts a small file system as a node's data directory",
		ShoppersWithin: 15 * time.Second, RecoversWithin: time.Minute,
		able: func(Config) error {
			if os.Geteuid() != 0 {
				return errors.New("full-disk needs root, to mount a tmpfs: run it with sudo")
			}
			return onPath("mount", "install util-linux")
		},
		set: func(ctx context.Context, s scene, l *local) error {
			node := s.victim() + "/1"
			disk := l.data(node) + ".disk"
			if err := os.MkdirAll(disk, 0o700); err != nil {
				return err
			}
			if out, err := exec.CommandContext(ctx, "mount", "-t", "tmpfs", "-o", "size="+diskSize, "tmpfs", disk).CombinedOutput(); err != nil {
				return fmt.Errorf("mount a tmpfs: %w: %s", err, out)
			}
			l.cleanup = append(l.cleanup, func() { _ = exec.Command("umount", disk).Run() }) // what is left shows in the mounts
			if err := os.Mkdir(filepath.Join(disk, "data"), 0o700); err != nil {
				return err
			}
			if err := os.Symlink(filepath.Join(disk, "data"), l.data(node)); err != nil {
				return err
			}
			l.onHeal(func(ctx context.Context) error {
				if err := os.Remove(filler(l, node)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
				_, err := l.forgive(ctx, node)
				return err
			})
			return nil
		},
		steps: func(s scene) []step {
			node, label := s.victim()+"/1", "disk of "+s.victim()+"/1 full"
			return []step{
				{say: "fill the disk of " + node, open: label, do: func(_ context.Context, r *run) error { return fill(filler(r.own, node)) }},
				{after: s.hold, say: "remove the file, and start the node if it has ended", close: label, do: func(ctx context.Context, r *run) error {
					if err := os.Remove(filler(r.own, node)); err != nil {
						return err
					}
					ended, err := r.own.forgive(ctx, node)
					if ended {
						r.note(node + " had ended; it said: " + lastWord(r.own.all[node].log))
					} else {
						r.note(node + " had not ended")
					}
					return err
				}},
			}
		},
	}
}

// fill writes until there is no room.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // what was written is of no interest
	for block := make([]byte, 1<<20); len(block) > 0; {
		switch _, err := f.Write(block); {
		case errors.Is(err, syscall.ENOSPC):
			block = block[:len(block)/2]
		case err != nil:
			return err
		}
	}
	return nil
}
