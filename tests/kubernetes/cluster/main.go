// All programs of a node and its control plane in one, selected by the first argument. The suite builds Kubernetes from
// its published Go
// // modules, so that the test depends on no unpinned download.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var programs = map[string]func() *cobra.Command{
	"etcd":                    etcd,
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"kubectl":                 cmd.NewDefaultKubectlCommand,
}

func main() {
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: cluster etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kubectl [ARGUMENT…]")
		os.Exit(64)
	}
	name := os.Args[1]
	// Each program parses its own command line.
	os.Args = os.Args[1:]
	os.Exit(cli.Run(programs[name]()))
}

// etcd keeps the cluster's objects for one run only, so it needs no fsync.
func etcd() *cobra.Command {
	return &cobra.Command{Use: "etcd DIRECTORY CLIENT-URL PEER-URL", Args: cobra.ExactArgs(3), RunE: func(_ *cobra.Command, args []string) error {
		config := embed.NewConfig()
		config.Dir = args[0]
		config.UnsafeNoFsync = true
		config.LogLevel = "warn"
		clients, err := url.Parse(args[1])
		if err != nil {
			return err
		}
		peers, err := url.Parse(args[2])
		if err != nil {
			return err
		}
		config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{*clients}, []url.URL{*clients}
		config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{*peers}, []url.URL{*peers}
		config.InitialCluster = config.InitialClusterFromName(config.Name)
		server, err := embed.StartEtcd(config)
		if err != nil {
			return err
		}
		defer server.Close()
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
		select {
		case <-ended:
			return nil
		case err := <-server.Err():
			return err
		}
	}}
}
