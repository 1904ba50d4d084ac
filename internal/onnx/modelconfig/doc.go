// Package modelconfig is the form of config.pbtxt, the configuration of a model in a Triton repository, as Go types that
// the protobuf library fills. It owns names and numbers; what they mean is onnx's business.
//
// modelconfig.pb.go is made from modelconfig.proto by protoc with protoc-gen-go in the version that go.mod has:
//
//	go build -o /usr/local/bin/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
//	protoc --go_out=. --go_opt=paths=source_relative modelconfig.proto
package modelconfig
