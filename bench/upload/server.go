package main

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the wire's checksum
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	startTimeout = time.Minute
	stopTimeout  = time.Minute
	pollEvery    = 2 * time.Millisecond
	workspace    = "/subscriptions/bench/resourceGroups/bench/providers/Microsoft.MachineLearningServices/workspaces/bench"
	store        = workspace + "/datastores/workspaceblobstore"
)

// server is the program under test, with what a client needs to talk to it.
type server struct {
	dir    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
	ended  error         // how, then
	base   string
	token  string
	client *http.Client
	blob   string // URL of the model's blob, without the credential
	query  string // the credential
}

func start(ctx context.Context, binary, dir string) (*server, error) {
	s := &server{dir: dir}
	return s, s.restart(ctx, binary)
}

// restart starts the server over its data directory.
func (s *server) restart(ctx context.Context, binary string) error {
	ready := filepath.Join(s.dir, "ready.json")
	if err := os.Remove(ready); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	output, err := os.OpenFile(filepath.Join(s.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	//nolint:noctx // it is ended by stop, in order, and not by the context
	s.cmd = exec.Command(binary, "serve", "--data-dir", filepath.Join(s.dir, "data"), "--management", "127.0.0.1:0",
		"--scoring", "127.0.0.1:0", "--ready-file", ready, "--subscription", "bench", "--resource-group", "bench",
		"--workspace", "bench")
	s.cmd.Stdout, s.cmd.Stderr = output, output
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	s.exited = make(chan struct{})
	go func() {
		s.ended = s.cmd.Wait()
		close(s.exited)
	}()
	var doc struct {
		URL string `json:"management_url"`
		CA  string `json:"ca_file"`
	}
	for deadline := time.Now().Add(startTimeout); ; {
		if text, err := os.ReadFile(ready); err == nil && json.Unmarshal(text, &doc) == nil {
			break
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server ended: %w (see %s)", s.ended, output.Name())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
		if time.Now().After(deadline) {
			return errors.New("the server did not become ready")
		}
	}
	return s.connect(ctx, doc.URL, doc.CA)
}

func (s *server) connect(ctx context.Context, base, ca string) error {
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(s.dir, "data", "admin.token"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	s.base, s.token = base, strings.TrimSpace(string(token))
	s.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	var d struct {
		Properties struct{ AccountName, ContainerName string } `json:"properties"`
	}
	if err := s.call(ctx, http.MethodGet, store, "", &d); err != nil {
		return err
	}
	var secret struct{ SASToken string }
	if err := s.call(ctx, http.MethodPost, store+"/listSecrets", `{"expirableSecret":true}`, &secret); err != nil {
		return err
	}
	s.blob = "https://" + d.Properties.AccountName + ".blob.core.portico/" + d.Properties.ContainerName + "/" + folder + "/" + fileName
	s.query = secret.SASToken
	return nil
}

// call is one request to the management API.
func (s *server) call(ctx context.Context, method, path, body string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, text)
	}
	return json.Unmarshal(text, into)
}

// register makes the upload a model, and gives the digest that the server found.
func (s *server) register(ctx context.Context) (string, error) {
	var m struct {
		Properties struct{ Digest string } `json:"properties"`
	}
	err := s.call(ctx, http.MethodPut, workspace+"/models/bench/versions/1",
		`{"properties":{"modelType":"custom_model","modelUri":"`+uri+`"}}`, &m)
	return m.Properties.Digest, err
}

// send is one request to the blob service; it gives the status.
func (s *server) send(ctx context.Context, method, query string, body []byte, header ...string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.blob+"?"+s.query+query, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// expect is send with one status that is right.
func (s *server) expect(ctx context.Context, want int, method, query string, body []byte, header ...string) error {
	status, err := s.send(ctx, method, query, body, header...)
	if err == nil && status != want {
		err = fmt.Errorf("%s %s: %d, want %d", method, query, status, want)
	}
	return err
}

func blockID(i int) string { return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%08d", i)) }

// sendBlocks sends all blocks, several at one time; done is told how many have arrived.
func (s *server) sendBlocks(ctx context.Context, m *model, parallel int, done func(int)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	var arrived atomic.Int64
	for i := range m.blocks() {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			block := m.block(i)
			sum := md5.Sum(block) //nolint:gosec // the wire's checksum
			err := s.expect(ctx, http.StatusCreated, http.MethodPut, "&comp=block&blockid="+url.QueryEscape(blockID(i)),
				block, "Content-MD5", base64.StdEncoding.EncodeToString(sum[:]))
			if err == nil {
				done(int(arrived.Add(1)))
			}
			return err
		})
	}
	return group.Wait()
}

// commit makes the blob of its blocks and says that it is complete.
func (s *server) commit(ctx context.Context, m *model) error {
	var list strings.Builder
	list.WriteString("<BlockList>")
	for i := range m.blocks() {
		list.WriteString("<Latest>" + blockID(i) + "</Latest>")
	}
	list.WriteString("</BlockList>")
	if err := s.expect(ctx, http.StatusCreated, http.MethodPut, "&comp=blocklist", []byte(list.String()),
		"If-None-Match", "*"); err != nil {
		return err
	}
	return s.expect(ctx, http.StatusOK, http.MethodPut, "&comp=metadata", nil, "x-ms-meta-upload_status", "completed")
}

// waitForImport waits until the content store has begun to take something over.
func (s *server) waitForImport(ctx context.Context) error {
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		if names, err := s.stored(); err != nil || len(names) > 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollEvery):
		}
	}
	return errors.New("the server does not begin to take the model over")
}

// memory reads a line of the server's /proc status, in bytes: VmRSS or VmHWM, its peak.
func (s *server) memory(name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("the system does not say %s", name)
}

func (s *server) kill() error {
	err := s.cmd.Process.Kill()
	<-s.exited
	return err
}

// stop ends the server in order.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the server: %w", err)
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(errors.New("the server did not stop"), s.kill())
	}
}
