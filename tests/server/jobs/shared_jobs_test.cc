// Jobs that several processes work on at the same time.
#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "tests/server/jobs/shared_jobs_fixture.h"

namespace qamserve {
namespace {

using Clock = std::chrono::steady_clock;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// Digests of what the tasks finished, in their order.
std::vector<std::string> ArtifactsOf(const std::vector<JobNotice>& notices) {
  std::vector<std::string> digests;
  for (const JobNotice& notice : notices) {
    if (notice.artifact != nullptr) digests.push_back(notice.artifact->digest);
  }
  return digests;
}

TEST_F(SharedJobsTest, TwoProcessesShareTheTasksOfAJob) {
  auto a = Start("a"), b = Start("b");
  for (Process* process : {a.get(), b.get()}) {
    process->runner().tensors = 40;
    process->runner().before_task = [](const TaskRecord&, ProgressFn) {
      Rest(5);
      return absl::OkStatus();
    };
    process->StartWorker(2);
  }
  const std::string id = Create(*a, Args());
  // B watches what A was asked for.
  const JobView done = WaitFor(*b, id);
  EXPECT_EQ(done.job.state, JobState::kSucceeded) << done.job.error.message;
  EXPECT_THAT(done.tensors, SizeIs(40));
  EXPECT_THAT(WorkersOf(id), ElementsAre("a", "b"));
  EXPECT_EQ(a->runner().all_runs() + b->runner().all_runs(), 43);
  EXPECT_TRUE(store_->GetArtifact(done.job.artifact).ok());
}

TEST_F(SharedJobsTest, ProgressOfATaskIsSeenFromOtherProcesses) {
  Process::Options options;
  options.lease_ms = 300;
  auto a = Start("a", options), b = Start("b", options);
  std::atomic<double> fraction{0.25};
  a->runner().before_task = [&](const TaskRecord& task, ProgressFn progress) -> absl::Status {
    while (task.stage == TaskStage::kPrepare && fraction < 1) {
      RETURN_IF_ERROR(progress(fraction));
      Rest(5);
    }
    return absl::OkStatus();
  };
  a->StartWorker();
  const std::string id = Create(*b, Args());
  WaitFor(*b, id, [](const JobView& view) { return view.progress.stage_fraction == 0.25; });
  EXPECT_EQ(TaskOf(id, 0).progress, 0.25);
  fraction = 0.75;
  const JobView view = WaitFor(*b, id, [](const JobView& v) { return v.progress.stage_fraction == 0.75; });
  EXPECT_EQ(view.job.state, JobState::kRunning);
  EXPECT_EQ(view.progress.waiting_for, "");
  fraction = 1;
  EXPECT_EQ(WaitFor(*b, id).job.state, JobState::kSucceeded);
}

TEST_F(SharedJobsTest, AWorkerThatDrainsFinishesItsTaskAndTakesNoOther) {
  auto a = Start("a");
  std::atomic<bool> started{false}, go_on{false};
  a->runner().before_task = [&](const TaskRecord&, ProgressFn progress) -> absl::Status {
    started = true;
    while (!go_on) {
      RETURN_IF_ERROR(progress(0.5));
      Rest(5);
    }
    return absl::OkStatus();
  };
  a->StartWorker(2);
  const std::string id = Create(*a, Args());
  while (!started) Rest(5);
  a->worker().SetDraining(true);
  go_on = true;
  while (TaskOf(id, 0).state != TaskState::kDone) Rest(5);
  Rest(100);
  EXPECT_EQ(a->runner().all_runs(), 1);
  EXPECT_EQ(TaskOf(id, 0).attempts, 1);
  // Nor what comes new; another worker takes it.
  const std::string next = Create(*a, Args(2));
  Rest(100);
  EXPECT_EQ(a->runner().all_runs(), 1);
  auto b = Start("b");
  b->StartWorker();
  EXPECT_EQ(WaitFor(*b, id).job.state, JobState::kSucceeded);
  EXPECT_EQ(WaitFor(*b, next).job.state, JobState::kSucceeded);
  EXPECT_EQ(a->runner().all_runs(), 1);
  b->StopWorker();
  const std::string last = Create(*a, Args(3));
  a->worker().SetDraining(false);
  EXPECT_EQ(WaitFor(*a, last).job.state, JobState::kSucceeded);
}

TEST_F(SharedJobsTest, AWorkerThatLosesItsDeviceLeavesItsTasksToOthers) {
  auto a = Start("a");
  a->runner().before_task = [](const TaskRecord&, ProgressFn) -> absl::Status {
    return Internal("CUDA_LOST", "an illegal memory access");
  };
  a->StartWorker(2);
  const std::string id = Create(*a, Args());
  while (a->lost_devices().empty()) Rest(5);
  WaitFor(*a, id, [](const JobView& view) { return view.job.state == JobState::kQueued; });
  // Not for as long as the process lives, whatever is said about draining.
  a->worker().SetDraining(true);
  a->worker().SetDraining(false);
  auto b = Start("b");
  b->StartWorker();
  EXPECT_EQ(WaitFor(*b, id).job.state, JobState::kSucceeded);
  EXPECT_EQ(a->runner().all_runs(), 1);
  EXPECT_EQ(TaskOf(id, 0).attempts, 2) << "one that does this everywhere is given up";
  const std::vector<absl::Status> lost = a->lost_devices();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(ReasonOf(lost[0]), "CUDA_LOST");
}

TEST_F(SharedJobsTest, AWorkerThatDrainsCanBeStopped) {
  auto a = Start("a");
  a->StartWorker(3);
  a->worker().SetDraining(true);
  Rest(20);
  a->StopWorker();
  const std::string id = Create(*a, Args());
  EXPECT_EQ(TaskOf(id, 0).state, TaskState::kReady);
}

TEST_F(SharedJobsTest, CancelStopsATaskThatRunsElsewhere) {
  // The next renewal of the lease, which would find it out by itself, is seconds away.
  Process::Options options;
  options.lease_ms = 60'000;
  auto a = Start("a", options), b = Start("b", options);
  std::atomic<bool> started{false}, stopped{false};
  a->runner().before_task = [&](const TaskRecord&, ProgressFn progress) -> absl::Status {
    started = true;
    for (;;) {
      if (const absl::Status status = progress(0); !status.ok()) {
        stopped = true;
        return status;
      }
      Rest(5);
    }
  };
  a->StartWorker();
  const std::string id = Create(*b, Args());
  WaitFor(*b, id, [&](const JobView&) { return started.load(); });
  ASSERT_TRUE(b->jobs().CancelJob(id, "").ok());
  const auto cancelled = Clock::now();
  while (!stopped && Clock::now() - cancelled < std::chrono::seconds(10)) Rest(5);
  EXPECT_LT(Clock::now() - cancelled, std::chrono::seconds(2));
  EXPECT_EQ(TaskOf(id, 0).state, TaskState::kReady);
  EXPECT_EQ(TaskOf(id, 0).attempts, 0);
}

TEST_F(SharedJobsTest, LostEventsOnlyDelay) {
  faults_->deaf = true;
  Process::Options options;
  options.poll_ms = 100;
  options.lease_ms = 60'000;
  auto a = Start("a", options), b = Start("b", options);
  std::atomic<bool> started{false}, stopped{false};
  a->runner().before_task = [&](const TaskRecord& task, ProgressFn progress) -> absl::Status {
    if (task.name != "tensor 3") return absl::OkStatus();
    started = true;
    absl::Status status;
    while (status.ok()) {
      status = progress(0);
      Rest(5);
    }
    stopped = true;
    return status;
  };
  a->StartWorker();
  const std::string id = Create(*b, Args());
  EXPECT_EQ(WaitFor(*b, id, [&](const JobView& view) { return view.progress.tasks_done == 4; }).progress.tasks_done, 4);
  while (!started) Rest(5);
  ASSERT_TRUE(b->jobs().CancelJob(id, "").ok());
  const auto cancelled = Clock::now();
  while (!stopped && Clock::now() - cancelled < std::chrono::seconds(10)) Rest(5);
  EXPECT_LT(Clock::now() - cancelled, std::chrono::seconds(2));
}

TEST_F(SharedJobsTest, AKilledWorkerLosesOnlyItsTask) {
  auto a = Start("a"), b = Start("b");
  const std::string id = Create(*b, Args());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(a->Finish(*a->Lease()).ok());
  ASSERT_TRUE(a->Lease());
  a.reset();
  b->StartWorker(2);
  EXPECT_EQ(WaitFor(*b, id).job.state, JobState::kSucceeded);
  EXPECT_EQ(b->runner().all_runs(), 5);
  const TaskRecord lost = TaskOf(id, 2);
  EXPECT_EQ(lost.lapses, 1);
  EXPECT_EQ(lost.attempts, 1) << "only the lease that was not lost";
  EXPECT_THAT(b->NoticesOf(JobNotice::Kind::kLeaseExpired), SizeIs(1));
}

TEST_F(SharedJobsTest, ManyLapsesAreNotTheTasksFaultButATaskThatKillsAllItsWorkersEndsTheJob) {
  auto a = StartByHand("a"), b = StartByHand("b");
  const std::string id = Create(*a, Args());
  for (int i = 1; i <= kMaxTaskLapses; ++i) {
    ASSERT_TRUE(a->Lease()) << i;
    EXPECT_EQ(StateOf(id), JobState::kRunning);
    skew_ms_ += 1001;
    ASSERT_TRUE(b->jobs().Maintain().ok());
    EXPECT_EQ(TaskOf(id, 0).lapses, i);
    EXPECT_EQ(StateOf(id), i < kMaxTaskLapses ? JobState::kQueued : JobState::kFailed);
  }
  const JobRecord job = store_->GetJob(id).value();
  EXPECT_EQ(job.error.reason, "LEASE_LAPSED");
  EXPECT_THAT(job.error.message, AllOf(HasSubstr("texts"), HasSubstr("worker a")));
  // Retried it starts anew.
  ASSERT_TRUE(b->jobs().RetryJob(id, "").ok());
  EXPECT_EQ(TaskOf(id, 0).lapses, 0);
}

TEST_F(SharedJobsTest, APausedWorkerFindsItsLeaseGoneAndDropsItsWork) {
  auto a = StartByHand("a"), b = StartByHand("b");
  const std::string id = Create(*a, Args());
  const auto paused = a->Lease();
  ASSERT_TRUE(paused);
  skew_ms_ += 1001;
  ASSERT_TRUE(b->jobs().Maintain().ok());
  ASSERT_TRUE(b->Lease());
  EXPECT_FALSE(paused->stop->load());
  EXPECT_EQ(ReasonOf(a->jobs().RenewLease(paused->lease)), "LEASE_LOST");
  EXPECT_TRUE(paused->stop->load());
  // Its outcome comes before that of the worker that has the lease now.
  EXPECT_EQ(ReasonOf(a->Finish(*paused)), "LEASE_LOST");
  EXPECT_EQ(ReasonOf(a->jobs().FailTask(paused->lease, Unavailable("FILE_IO", "too late"))), "LEASE_LOST");
  EXPECT_EQ(TaskOf(id, 0).state, TaskState::kLeased);
}

TEST_F(SharedJobsTest, AWorkerTellsOfATaskThatWasTakenFromIt) {
  Process::Options options;
  options.lease_ms = 100'000;  // nothing is renewed before the worker reports
  auto a = Start("a", options), b = StartByHand("b");
  std::atomic<bool> taken{false};
  a->runner().before_task = [&](const TaskRecord& task, ProgressFn) -> absl::Status {
    if (!taken.exchange(true)) return b->jobs().ReleaseTask(task.job, task.index, "");
    return absl::OkStatus();
  };
  const std::string id = Create(*b, Args());
  a->StartWorker();
  EXPECT_EQ(WaitFor(*b, id).job.state, JobState::kSucceeded);
  a->StopWorker();
  const std::vector<TaskLease> lost = a->lost_leases();
  ASSERT_EQ(lost.size(), 1u) << "told once, and of no task that went well";
  EXPECT_EQ(lost[0].job, id);
  EXPECT_EQ(lost[0].index, 0);
  EXPECT_EQ(lost[0].worker, "a");
}

TEST_F(SharedJobsTest, ARenewedLeaseIsNotTaken) {
  auto a = StartByHand("a"), b = StartByHand("b");
  const std::string id = Create(*a, Args());
  const auto grant = a->Lease();
  skew_ms_ += 900;
  ASSERT_TRUE(a->jobs().RenewLease(grant->lease).ok());
  skew_ms_ += 900;
  ASSERT_TRUE(b->jobs().Maintain().ok());
  EXPECT_EQ(TaskOf(id, 0).lease_id, grant->lease.lease_id);
}

// --- The same task, done twice ---

class DuplicatesTest : public SharedJobsTest {
 protected:
  // A has a task whose lease lapses; B does it.
  void SetUp() override {
    SharedJobsTest::SetUp();
    a_ = StartByHand("a");
    b_ = StartByHand("b");
    id_ = Create(*a_, Args());
    ASSERT_TRUE(b_->Finish(*b_->Lease()).ok());
    slow_ = a_->Lease();
    ASSERT_TRUE(slow_);
    skew_ms_ += 1001;
    ASSERT_TRUE(b_->jobs().Maintain().ok());
    const auto again = b_->Lease();
    ASSERT_TRUE(again);
    ASSERT_EQ(again->lease.index, slow_->lease.index);
    ASSERT_TRUE(b_->Finish(*again).ok());
  }
  void FinishJob() {
    while (const auto grant = b_->Lease()) ASSERT_TRUE(b_->Finish(*grant).ok());
    ASSERT_EQ(StateOf(id_), JobState::kSucceeded);
  }

  std::unique_ptr<Process> a_, b_;
  std::string id_;
  std::optional<TaskGrant> slow_;
};

TEST_F(DuplicatesTest, TheSameOutcomeIsFine) {
  EXPECT_TRUE(a_->Finish(*slow_).ok());
  EXPECT_THAT(a_->NoticesOf(JobNotice::Kind::kDuplicate), SizeIs(1));
  EXPECT_THAT(a_->NoticesOf(JobNotice::Kind::kTaskDone), IsEmpty());
  EXPECT_EQ(a_->jobs().GetJob(id_)->progress.tasks_done, 2);
  FinishJob();
  EXPECT_TRUE(a_->Finish(*slow_).ok()) << "even now";
}

TEST_F(DuplicatesTest, AnotherOutcomeFailsTheJobWithBothDigests) {
  TaskOutcome other = a_->Do(*slow_);
  other.blobs = {std::string(64, 'f')};
  const auto running = b_->Lease();
  ASSERT_TRUE(running);
  const absl::Status status = a_->jobs().CompleteTask(slow_->lease, other, 0.5);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_EQ(ReasonOf(status), "TASK_NOT_DETERMINISTIC");
  const JobRecord job = store_->GetJob(id_).value();
  EXPECT_EQ(job.state, JobState::kFailed);
  EXPECT_EQ(job.error.reason, "TASK_NOT_DETERMINISTIC");
  const std::string mine = OutcomeDigest(other), kept = OutcomeDigest(TaskOf(id_, slow_->lease.index)).value();
  EXPECT_NE(mine, kept);
  EXPECT_THAT(job.error.message, AllOf(HasSubstr("tensor 0"), HasSubstr("worker a"), HasSubstr("worker b"),
                                       HasSubstr(mine.substr(0, 16)), HasSubstr(kept.substr(0, 16))));
  EXPECT_THAT(a_->NoticesOf(JobNotice::Kind::kNotDeterministic), SizeIs(1));
  EXPECT_EQ(ReasonOf(b_->Finish(*running)), "LEASE_LOST") << "all of it stops";
  // What is there cannot be trusted, so it is not gone on from.
  EXPECT_EQ(ReasonOf(a_->jobs().RetryJob(id_, "").status()), "TASK_NOT_DETERMINISTIC");
  const std::string anew = Create(*a_, Args());
  EXPECT_NE(anew, id_);
  EXPECT_EQ(a_->jobs().GetJob(anew)->progress.tasks_done, 0);
}

TEST_F(DuplicatesTest, AnotherOutcomeAfterTheEndIsToldAndChangesNothing) {
  TaskOutcome other = a_->Do(*slow_);
  other.tensor->distortion = 0.5;
  FinishJob();
  const JobRecord before = store_->GetJob(id_).value();
  EXPECT_EQ(ReasonOf(a_->jobs().CompleteTask(slow_->lease, other, 0.5)), "TASK_NOT_DETERMINISTIC");
  const auto notices = a_->NoticesOf(JobNotice::Kind::kNotDeterministic);
  ASSERT_THAT(notices, SizeIs(1));
  EXPECT_THAT(notices[0].reason, HasSubstr("tensor 0"));
  const JobRecord after = store_->GetJob(id_).value();
  EXPECT_EQ(after.state, JobState::kSucceeded);
  EXPECT_EQ(after.version, before.version);
  EXPECT_TRUE(store_->GetArtifact(after.artifact).ok());
}

TEST(OutcomeDigestTest, MeasuredQualityCountsEvenWhereNothingIsMade) {
  TaskOutcome outcome;
  outcome.quality = QualityReport();
  const std::string digest = OutcomeDigest(outcome);
  outcome.quality->kl_mean = 0.25;
  EXPECT_NE(OutcomeDigest(outcome), digest);
  TaskRecord task;
  task.outcome_json = EncodeOutcome(outcome);
  EXPECT_EQ(OutcomeDigest(task).value(), OutcomeDigest(outcome));
  task.outcome_json = R"({"data":""})";
  EXPECT_EQ(OutcomeDigest(task).value(), "") << "of an earlier program";
}

// The store took the outcome, but its answer did not arrive.
TEST_F(SharedJobsTest, AnOutcomeThatIsReportedTwiceIsTakenOnce) {
  auto a = StartByHand("a");
  const std::string id = Create(*a, Args());
  while (const auto grant = a->Lease()) {
    const TaskOutcome outcome = a->Do(*grant);
    faults_->lost_answers_in_100 = 100;
    EXPECT_EQ(ReasonOf(a->jobs().CompleteTask(grant->lease, outcome, 0.5)), "STORE_UNAVAILABLE");
    faults_->lost_answers_in_100 = 0;
    EXPECT_TRUE(a->jobs().CompleteTask(grant->lease, outcome, 0.5).ok());
  }
  EXPECT_EQ(StateOf(id), JobState::kSucceeded);
  WorkersOf(id);
  const auto done = a->NoticesOf(JobNotice::Kind::kTaskDone);
  EXPECT_THAT(done, SizeIs(7));
  EXPECT_EQ(ArtifactsOf(done), std::vector<std::string>{store_->GetJob(id)->artifact});
  EXPECT_THAT(a->NoticesOf(JobNotice::Kind::kDuplicate), IsEmpty());
  const auto states = a->NoticesOf(JobNotice::Kind::kJobState);
  ASSERT_FALSE(states.empty());
  EXPECT_EQ(states.back().job.state, JobState::kSucceeded) << "what waits for the end is told of it";
  EXPECT_FALSE(states.back().job.artifact.empty());
}

// A ladder's job names none of its artifacts.
TEST_F(SharedJobsTest, EveryArtifactThatIsKeptIsToldOnce) {
  auto a = StartByHand("a");
  a->runner().after_evaluate = [](const TaskInput& input, TaskOutcome& outcome) {
    constexpr int32_t kDropped = 1, kLast = 2;
    if (input.task.round == kDropped) outcome.artifact.reset();
    if (input.task.round == kLast) return;
    TaskRecord& next = outcome.next_tasks.emplace_back();
    next.index = static_cast<int32_t>(input.tasks.size());
    next.round = input.task.round + 1;
    next.stage = TaskStage::kEvaluate;
    next.name = "quality " + std::to_string(next.round);
    next.cost = 1;
  };
  CreateQuantizeJobArgs args = Args();
  args.spec.ladder = {3, 4, 5};
  const std::string id = Create(*a, args);
  while (const auto grant = a->Lease()) ASSERT_TRUE(a->Finish(*grant).ok());
  const JobRecord job = store_->GetJob(id).value();
  EXPECT_EQ(job.state, JobState::kSucceeded);
  EXPECT_EQ(job.artifact, "");
  std::vector<std::string> kept;
  const auto listed = store_->ListArtifacts({}, "");
  ASSERT_TRUE(listed.ok()) << listed.status();
  for (const ArtifactRecord& artifact : listed->items) kept.push_back(artifact.digest);
  EXPECT_THAT(kept, SizeIs(2));
  EXPECT_THAT(ArtifactsOf(a->NoticesOf(JobNotice::Kind::kTaskDone)), testing::UnorderedElementsAreArray(kept));
}

// --- Whose tasks are whose ---

TEST_F(SharedJobsTest, OnlyItsOwnTasksArePutBack) {
  auto a = StartByHand("a"), b = StartByHand("b");
  const std::string id = Create(*a, Args());
  ASSERT_TRUE(a->Finish(*a->Lease()).ok());
  const auto mine = a->Lease(), other = b->Lease();
  ASSERT_TRUE(mine && other);
  ASSERT_TRUE(a->jobs().PutBackTasks().ok());
  EXPECT_TRUE(mine->stop->load());
  EXPECT_EQ(TaskOf(id, mine->lease.index).state, TaskState::kReady);
  EXPECT_EQ(TaskOf(id, mine->lease.index).attempts, 0);
  EXPECT_EQ(StateOf(id), JobState::kRunning);
  EXPECT_TRUE(b->jobs().RenewLease(other->lease).ok());
  EXPECT_TRUE(b->Finish(*other).ok());
}

TEST_F(SharedJobsTest, AProcessThatStartsLeavesTheLeasesOfOthers) {
  auto a = StartByHand("a");
  const std::string id = Create(*a, Args());
  const auto grant = a->Lease();
  ASSERT_TRUE(grant);
  auto b = StartByHand("b");
  EXPECT_EQ(TaskOf(id, 0).lease_id, grant->lease.lease_id);
  EXPECT_TRUE(std::filesystem::exists(grant->input.work_dir));
  EXPECT_TRUE(a->Finish(*grant).ok());
}

TEST_F(SharedJobsTest, AProcessThatStartsGivesWorkersTimeBeforeItTakesLapsedLeases) {
  auto a = StartByHand("a");
  const std::string id = Create(*a, Args());
  const auto grant = a->Lease();
  skew_ms_ += 5000;
  Process::Options options;
  options.background = false;
  options.settle_ms = 1000;
  options.now_ms = [this] { return SystemNowMs() + skew_ms_; };
  auto b = Start("b", options);
  ASSERT_TRUE(b->jobs().Maintain().ok());
  EXPECT_EQ(TaskOf(id, 0).lease_id, grant->lease.lease_id);
  skew_ms_ += 1001;
  ASSERT_TRUE(b->jobs().Maintain().ok());
  EXPECT_EQ(TaskOf(id, 0).state, TaskState::kReady);
}

TEST_F(SharedJobsTest, ATaskThatWasLeasedAsItsJobEndedIsGivenBack) {
  auto a = StartByHand("a"), b = StartByHand("b");
  const std::string id = Create(*a, Args());
  const auto grant = a->Lease();
  ASSERT_TRUE(grant);
  // As if it had been cancelled by someone who had not seen the lease.
  JobRecord job = store_->GetJob(id).value();
  ASSERT_TRUE(JobMachine(job).Apply(JobEvent::kCancel, 1).ok());
  ASSERT_TRUE(store_->Apply({.jobs = {job}, .tasks = {}, .artifact = {}}).ok());
  EXPECT_EQ(ReasonOf(a->Finish(*grant)), "LEASE_LOST");
  EXPECT_EQ(TaskOf(id, 0).state, TaskState::kReady);
  EXPECT_EQ(TaskOf(id, 0).attempts, 0);
  EXPECT_EQ(StateOf(id), JobState::kCancelled);
  ASSERT_TRUE(b->jobs().RetryJob(id, "").ok());
  EXPECT_TRUE(b->Lease());
}

TEST_F(SharedJobsTest, RetryTakesALeaseThatOutlivedTheJob) {
  auto a = StartByHand("a"), b = StartByHand("b");
  const std::string id = Create(*a, Args());
  const auto grant = a->Lease();
  JobRecord job = store_->GetJob(id).value();
  ASSERT_TRUE(JobMachine(job).Apply(JobEvent::kCancel, 1).ok());
  ASSERT_TRUE(store_->Apply({.jobs = {job}, .tasks = {}, .artifact = {}}).ok());
  ASSERT_TRUE(b->jobs().RetryJob(id, "").ok());
  EXPECT_EQ(ReasonOf(a->Finish(*grant)), "LEASE_LOST");
  EXPECT_TRUE(b->Lease());
}

// --- Pools, codecs, projects ---

class PoolsTest : public SharedJobsTest {
 protected:
  void Register(const std::string& id, const std::string& pool, const std::string& codec) {
    InstanceRecord instance;
    instance.id = id;
    instance.roles = {"worker"};
    instance.pools = {pool};
    instance.codec_version = codec;
    instance.threads = 2;
    ASSERT_TRUE(store_->PutInstance(instance).ok());
  }
  std::string WaitingFor(Process& process, const std::string& id) {
    return process.jobs().GetJob(id)->progress.waiting_for;
  }
};

TEST_F(PoolsTest, AJobIsDoneByWorkersOfItsPool) {
  auto a = StartByHand("a");
  CreateQuantizeJobArgs args = Args();
  args.pool = "cuda";
  const std::string id = Create(*a, args);
  EXPECT_EQ(a->jobs().GetJob(id)->job.pool, "cuda");
  EXPECT_EQ(WaitingFor(*a, id), "a worker of pool cuda (none is registered)");
  EXPECT_FALSE(a->Lease(FilterOf("cpu")));
  EXPECT_EQ(a->jobs().GetJob(Create(*a, Args(2)))->job.pool, "cpu");
  TaskFilter both = FilterOf("cpu");
  both.pools.emplace_back("cuda");
  EXPECT_EQ(a->Lease(both)->lease.job, id);
  for (const std::string& bad : {std::string("GPU"), std::string("a.b"), std::string(64, 'a')}) {
    args.pool = bad;
    EXPECT_EQ(ReasonOf(a->jobs().CreateQuantizeJob(args).status()), "POOL") << bad;
  }
  args.pool = "";
  args.project = "No Good";
  EXPECT_EQ(ReasonOf(a->jobs().CreateQuantizeJob(args).status()), "PROJECT");
}

TEST_F(PoolsTest, AJobWaitsForWorkersOfItsCodecAndSaysSo) {
  // A process asks for the instances every two seconds, so each step has one of its own.
  const std::string id = Create(*StartByHand("a"), Args());
  EXPECT_EQ(store_->GetJob(id)->codec_version, kCodecVersion);
  Register("1", "cuda", kCodecVersion);
  EXPECT_EQ(WaitingFor(*StartByHand("b"), id), "a worker of pool cpu (none is registered)");
  Register("2", "cpu", "qamw-0");
  EXPECT_EQ(WaitingFor(*StartByHand("c"), id),
            fmt::format("a worker of pool cpu with codec {}; those registered have qamw-0", kCodecVersion));
  Register("3", "cpu", kCodecVersion);
  auto d = StartByHand("d");
  EXPECT_EQ(WaitingFor(*d, id), "a worker of pool cpu");
  TaskFilter filter = FilterOf("cpu");
  filter.codec_version = "qamw-0";
  EXPECT_FALSE(d->Lease(filter));
  filter.codec_version = kCodecVersion;
  EXPECT_TRUE(d->Lease(filter));
}

TEST_F(PoolsTest, AWorkerTakesTheTasksOfItsPools) {
  auto a = Start("a");
  CreateQuantizeJobArgs args = Args();
  args.pool = "cuda";
  const std::string on_cuda = Create(*a, args), on_cpu = Create(*a, Args(2));
  args = Args(3);
  args.pool = "other";
  const std::string elsewhere = Create(*a, args);
  a->StartWorker(2, {"cuda", "cpu"});
  EXPECT_EQ(WaitFor(*a, on_cuda).job.state, JobState::kSucceeded);
  EXPECT_EQ(WaitFor(*a, on_cpu).job.state, JobState::kSucceeded);
  EXPECT_EQ(StateOf(elsewhere), JobState::kQueued);
}

TEST_F(PoolsTest, ProjectsGetWorkersInTurnAndPlacesInTheQueueSaySo) {
  auto a = StartByHand("a");
  std::vector<std::string> jobs;
  for (int i = 0; i < 4; ++i) {
    CreateQuantizeJobArgs args = Args(static_cast<uint64_t>(i) + 1);
    args.project = i < 3 ? "large" : "small";
    jobs.push_back(Create(*a, args));
  }
  const auto position = [&](int i) { return a->jobs().GetJob(jobs[static_cast<size_t>(i)])->progress.queue_position; };
  EXPECT_THAT((std::vector{position(0), position(1), position(2), position(3)}), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(a->Lease()->lease.job, jobs[0]);
  // One project has a task under way now, the other none.
  EXPECT_THAT((std::vector{position(0), position(1), position(2), position(3)}), ElementsAre(0, 2, 3, 1));
  EXPECT_EQ(a->Lease()->lease.job, jobs[3]);
  EXPECT_EQ(a->Lease()->lease.job, jobs[1]);
}

TEST_F(PoolsTest, TheTimeLeftCountsAllWorkersOfThePool) {
  auto a = StartByHand("a");
  a->runner().tensors = 8;
  const std::string first = Create(*a, Args());
  while (const auto grant = a->Lease()) ASSERT_TRUE(a->Finish(*grant).ok());
  ASSERT_EQ(StateOf(first), JobState::kSucceeded);
  const std::string id = Create(*a, Args(2));
  const double alone = StartByHand("b")->jobs().GetJob(id)->progress.eta_seconds;
  // Half a second for each of 11 tasks, of a worker with one thread.
  EXPECT_NEAR(alone, 5.5, 1e-9);
  Register("1", "cpu", kCodecVersion);
  Register("2", "cpu", kCodecVersion);
  EXPECT_NEAR(StartByHand("c")->jobs().GetJob(id)->progress.eta_seconds, 3 * 0.5 + 8 * 0.5 / 4, 1e-9);
}

}  // namespace
}  // namespace qamserve
