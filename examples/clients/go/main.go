// A first client of Blockyard in Go: `./client FLEET`, with the code that protoc generates from protos/.
//
// It makes a fleet, acquires, asks again, is refused, renews and releases. docs/how-to/write-a-client.md explains it.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "first-client/gen/go/blockyard/v1"
)

const (
	attemptTime = 5 * time.Second  // how long one attempt may take
	patience    = 60 * time.Second // how long to ask again: longer than the outages to survive
	pause       = 500 * time.Millisecond
)

// gotNoAnswer says whether the outcome is unknown: a change may have happened.
func gotNoAnswer(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled
}

// ask makes attempts, each with its deadline, until there is an answer. The error is a refusal, or the last failure.
// Every attempt must send the same request.
func ask(attempt func(context.Context) error) error {
	until := time.Now().Add(patience)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), attemptTime)
		err := attempt(ctx)
		cancel()
		if err == nil || !gotNoAnswer(err) || time.Now().After(until) {
			return err
		}
		time.Sleep(pause)
	}
}

// acquire acquires. If no answer came, nothing stays held for longer than the TTL.
func acquire(allocator pb.AllocatorClient, request *pb.AcquireRequest) (answer *pb.AcquireResponse, err error) {
	err = ask(func(ctx context.Context) (err error) {
		answer, err = allocator.Acquire(ctx, request)
		return err
	})
	if err != nil && gotNoAnswer(err) {
		target := &pb.ReleaseRequest_IdempotencyToken{IdempotencyToken: request.IdempotencyToken}
		_ = ask(func(ctx context.Context) error { // the error to tell is the first one
			_, err := allocator.Release(ctx, &pb.ReleaseRequest{Fleet: request.Fleet, Target: target})
			return err
		})
	}
	return answer, err
}

// errorInfo gives the ErrorInfo of a refusal, or nil: it has none, and comes from a proxy, say.
func errorInfo(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// newToken names a new intent.
func newToken() string {
	bytes := make([]byte, 16)
	if _, err := rand.Read(bytes); err != nil {
		panic(err)
	}
	return hex.EncodeToString(bytes)
}

func run(fleetID string) error {
	address := os.Getenv("BLOCKYARD_ADDRESS")
	if address == "" {
		address = "127.0.0.1:7350"
	}
	// From version 1.63 on: grpc.NewClient, with grpc.WithTransportCredentials(insecure.NewCredentials()).
	connection, err := grpc.Dial(address, grpc.WithInsecure(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		return err
	}
	defer connection.Close()
	allocator, admin := pb.NewAllocatorClient(connection), pb.NewFleetAdminClient(connection)
	fleet := "fleets/" + fleetID

	// If they are there already, with these fields, nothing changes.
	if err := ask(func(ctx context.Context) error {
		_, err := admin.CreateFleet(ctx, &pb.CreateFleetRequest{FleetId: fleetID})
		return err
	}); err != nil {
		return err
	}
	if err := ask(func(ctx context.Context) error {
		shape := &pb.Instance{TotalBlocks: 4}
		_, err := admin.CreateInstance(ctx, &pb.CreateInstanceRequest{Parent: fleet, InstanceId: "node-1", Instance: shape})
		return err
	}); err != nil {
		return err
	}

	// The token names the intent. A scheduler that must survive its own death writes it down before it asks.
	request := &pb.AcquireRequest{
		Fleet:            fleet,
		IdempotencyToken: newToken(),
		Holder:           "job-1",
		Demands:          []*pb.Demand{{Blocks: 2}},
		Ttl:              durationpb.New(30 * time.Second),
	}
	grant, err := acquire(allocator, request)
	if err != nil {
		return err
	}
	allocation := grant.Allocation
	for _, placement := range allocation.Placements {
		fmt.Printf("%s holds %s %v\n", allocation.Holder, placement.Instance, placement.Blocks)
	}

	again, err := acquire(allocator, request)
	if err != nil {
		return err
	}
	same := "another one"
	if again.Allocation.Name == allocation.Name {
		same = "the same allocation"
	}
	fmt.Printf("again: %s, replayed %v\n", same, again.Replayed)

	_, err = acquire(allocator, &pb.AcquireRequest{
		Fleet:            fleet,
		IdempotencyToken: newToken(),
		Holder:           "job-2",
		Demands:          []*pb.Demand{{Blocks: 3}},
	})
	info := errorInfo(err)
	if info == nil || info.Reason != "NO_CAPACITY" {
		return fmt.Errorf("three of two idle blocks: %w", err)
	}
	fmt.Printf("refused: %s, %s idle\n", info.Reason, info.Metadata["idle_blocks"]) // wait, ask again with the same token

	// The guards: if the name should ever mean somebody else's allocation, theirs is left alone.
	holder, fencingToken := allocation.Holder, allocation.FencingToken
	if err := ask(func(ctx context.Context) error {
		_, err := allocator.Renew(ctx, &pb.RenewRequest{Name: allocation.Name, Holder: &holder, FencingToken: &fencingToken})
		return err
	}); err != nil {
		return err
	}
	return ask(func(ctx context.Context) error {
		target := &pb.ReleaseRequest_Name{Name: allocation.Name}
		released, err := allocator.Release(ctx, &pb.ReleaseRequest{Target: target, Holder: &holder, FencingToken: &fencingToken})
		if err == nil {
			fmt.Printf("released: %s\n", released.Outcome)
		}
		return err
	})
}

func main() {
	fleet := "hello"
	if len(os.Args) > 1 {
		fleet = os.Args[1]
	}
	if err := run(fleet); err != nil {
		if info := errorInfo(err); info != nil {
			fmt.Fprintln(os.Stderr, info.Reason)
		} else {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}
