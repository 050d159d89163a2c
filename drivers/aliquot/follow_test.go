package aliquot

import (
	"testing"
	"testing/synctest"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// The docker driver hands out a task's result with no way out: who asked for it and
// left would keep a goroutine for ever. synctest fails the test where one stays.
func TestTheLastResultOfATaskIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		task := newTasks().add(t.Context(), &drivers.TaskConfig{ID: "t"}, "c", nil)
		exit := make(chan *drivers.ExitResult)
		go func() {
			defer close(exit)
			<-task.ctx.Done()
			exit <- &drivers.ExitResult{Err: task.ctx.Err()}
		}()
		ended := false
		go func() {
			drain(exit)
			ended = true
		}()
		task.end()
		synctest.Wait()
		if !ended {
			t.Error("the watch goes on after the task's end")
		}
	})
}
