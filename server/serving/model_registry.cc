#include "server/serving/model_registry.h"

#include <absl/time/clock.h>

#include <cmath>
#include <random>
#include <thread>
#include <utility>

#include "server/store/request_ids.h"

namespace qamserve {
namespace {

bool HoldsMemory(ServedModelState state) {
  return state == ServedModelState::kLoading || state == ServedModelState::kReady ||
         state == ServedModelState::kDraining;
}

// What the bytes in this machine's memory are; they add up to total_bytes().
std::string PartsOf(const LoadPlan& plan) {
  if (!plan.on_device) {
    return fmt::format("{} weights, {} KV cache, {} scratch", plan.weight_bytes, plan.kv_bytes, plan.scratch_bytes);
  }
  return fmt::format("{} weights; the GPU has a copy of them, {} KV cache and {} scratch, which are not counted here",
                     plan.weight_bytes, plan.kv_bytes, plan.scratch_bytes);
}

std::string LoadPayload(const LoadArgs& args) {
  return fmt::format("{}\n{}\n{}", args.name, args.source, args.context_tokens);
}

uint64_t SystemSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

// Rung when a request has found its device lost. Models hold it: a request may outlive the registry.
class ModelRegistry::LossBell {
 public:
  void Ring() {
    absl::MutexLock lock(&mutex_);
    rung_ = true;
  }
  void Stop() {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }
  // Waits until it is rung again. False once it was stopped.
  bool Wait() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(this, &LossBell::HasNews));
    rung_ = false;
    return !stopped_;
  }

 private:
  bool HasNews() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return rung_ || stopped_; }

  absl::Mutex mutex_;
  bool rung_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

ModelRegistry::ModelRegistry(RegistryOptions options, Catalog& catalog, ModelLoader& loader)
    : options_(std::move(options)),
      catalog_(catalog),
      loader_(loader),
      rng_(options_.routing_seed ? *options_.routing_seed : SystemSeed()),
      loss_bell_(std::make_shared<LossBell>()),
      fails_lost_([this] {
        while (loss_bell_->Wait()) FailLost();
      }) {}

ModelRegistry::~ModelRegistry() {
  DrainAll(absl::InfinitePast());
  loss_bell_->Stop();
  fails_lost_.join();
}

// Whoever of several models on a GPU finds it lost, it is lost to all of them. Those that are being loaded find out by
// themselves.
void ModelRegistry::FailLost() {
  std::vector<std::shared_ptr<ServedModel>> models;
  {
    absl::MutexLock lock(&mutex_);
    for (const auto& [name, model] : models_) {
      const ServedModelState state = model->state();
      if (state == ServedModelState::kReady || state == ServedModelState::kDraining) models.push_back(model);
    }
  }
  absl::Status lost;
  for (const auto& model : models) lost.Update(model->lost());
  if (lost.ok()) return;
  std::erase_if(models, [&](const auto& model) {
    const bool is_hit = model->plan().on_device || !model->lost().ok();
    return !is_hit || !model->Fail(lost, options_.now_ms()).ok();
  });
  for (const auto& model : models) Changed(*model);
  for (const auto& model : models) model->FreeFailed();
}

absl::StatusOr<ServedModelView> ModelRegistry::Load(const LoadArgs& args) {
  RETURN_IF_ERROR(CheckModelName(args.name));
  if (!options_.owns_rows) return LoadNew(args);
  absl::StatusOr<ServedModelView> view;
  ASSIGN_OR_RETURN(const std::string answer, RunOnce(catalog_.store(), args.request_id, "LoadModel", LoadPayload(args),
                                                     options_.now_ms(), [&]() -> absl::StatusOr<std::string> {
                                                       view = LoadNew(args);
                                                       if (!view.ok()) return view.status();
                                                       return ResourceName("servedModels", args.name);
                                                     }));
  if (view.ok()) return view;
  // The id was answered before; the model may have changed since.
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, Find(args.name));
  return model->View();
}

absl::StatusOr<std::shared_ptr<ServedModel>> ModelRegistry::Present(const LoadArgs& args) const {
  absl::MutexLock lock(&mutex_);
  if (shutting_down_) return Unavailable("SHUTTING_DOWN", "the server is shutting down");
  RETURN_IF_ERROR(CheckNoAlias(aliases_, args.name));
  const auto it = models_.find(args.name);
  if (it == models_.end()) return std::shared_ptr<ServedModel>();
  const std::shared_ptr<ServedModel>& model = it->second;
  const ServedModelState state = model->state();
  if (state == ServedModelState::kFailed) return std::shared_ptr<ServedModel>();
  if (state != ServedModelState::kReady) {
    return Aborted("MODEL_BUSY", "model \"{}\" is {}; try again later", args.name, ServedModelStateName(state));
  }
  const bool same_context = args.context_tokens == 0 || args.context_tokens == model->plan().context_tokens;
  if (model->source() == args.source && same_context) return model;
  return AlreadyExists("MODEL_NAME_TAKEN", "model \"{}\" serves {} with a context of {} tokens; unload it first",
                       args.name, model->source(), model->plan().context_tokens);
}

absl::StatusOr<ServedModelView> ModelRegistry::LoadNew(const LoadArgs& args) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> present, Present(args));
  if (present != nullptr) return present->View();
  ASSIGN_OR_RETURN(const FileSet files, catalog_.FilesOf(args.source));
  ASSIGN_OR_RETURN(const LoadPlan plan, loader_.Plan(files, args.context_tokens));
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, Admit(args, plan));
  Changed(*model);
  const absl::Status status = FillAndPublish(*model, files, args);
  if (!status.ok()) {
    model->Fail(status, options_.now_ms()).IgnoreError();  // it is LOADING, from where it may
    Changed(*model);
    return status;
  }
  Changed(*model);
  return model->View();
}

absl::StatusOr<std::shared_ptr<ServedModel>> ModelRegistry::Admit(const LoadArgs& args, const LoadPlan& plan) {
  absl::MutexLock names(&names_mutex_);
  absl::MutexLock lock(&mutex_);
  if (shutting_down_) return Unavailable("SHUTTING_DOWN", "the server is shutting down");
  RETURN_IF_ERROR(CheckNoAlias(aliases_, args.name));
  const auto it = models_.find(args.name);
  if (it != models_.end() && it->second->state() != ServedModelState::kFailed) {
    return Aborted("MODEL_BUSY", "model \"{}\" is being loaded by another call", args.name);
  }
  if (it == models_.end() && models_.size() >= kMaxServedModels) {
    return ResourceExhausted("MODEL_LIMIT", "{} models are served, which is the limit; unload one", models_.size());
  }
  int64_t taken = 0;
  for (const auto& [name, model] : models_) {
    if (HoldsMemory(model->state())) taken += model->plan().total_bytes();
  }
  if (plan.total_bytes() > options_.memory_limit_bytes - taken) {
    return ResourceExhausted("MEMORY_LIMIT",
                             "model \"{}\" needs {} bytes ({}), but of the limit of {} bytes (--memory-limit-mib) only "
                             "{} are free",
                             args.name, plan.total_bytes(), PartsOf(plan), options_.memory_limit_bytes,
                             options_.memory_limit_bytes - taken);
  }
  auto model = std::make_shared<ServedModel>(args.name, args.source, plan, [bell = loss_bell_] { bell->Ring(); });
  models_[args.name] = model;
  return model;
}

absl::Status ModelRegistry::FillAndPublish(ServedModel& model, const FileSet& files, const LoadArgs& args) {
  ASSIGN_OR_RETURN(LoadedModel loaded, loader_.Load(files, model.plan()));
  if (!options_.owns_rows) return model.BecomeReady(std::move(loaded), options_.now_ms());
  RETURN_IF_ERROR(PutRow({args.name, args.source, model.plan().context_tokens, options_.now_ms()}, args));
  // From here the row keeps the source from being deleted; it may have been just before.
  absl::Status status = catalog_.FilesOf(args.source).status();
  if (status.ok()) status = model.BecomeReady(std::move(loaded), options_.now_ms());
  if (!status.ok()) catalog_.store().DeleteServedModel(args.name).IgnoreError();
  return status;
}

absl::Status ModelRegistry::PutRow(const ServedModelRecord& record, const LoadArgs& args) {
  if (args.wish) {
    ASSIGN_OR_RETURN(const bool written, catalog_.store().AnswerLoadWish(*args.wish, record));
    if (written) return absl::OkStatus();  // else the job was changed or deleted during the load
  }
  return catalog_.store().PutServedModel(record);
}

absl::StatusOr<ServedModelView> ModelRegistry::Unload(const std::string& name, double drain_seconds,
                                                      const std::string& request_id) {
  if (!(drain_seconds >= 0 && drain_seconds <= options_.max_drain_seconds)) {
    return InvalidArgument("DRAIN_SECONDS", "drain_seconds must be 0 to {}; got {}", options_.max_drain_seconds,
                           drain_seconds);
  }
  ServedModelView view;
  view.name = name;
  view.state = ServedModelState::kUnloaded;
  const auto unload = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, BeginUnload(name));
    Changed(*model);
    // Forgotten before the drain: a server that dies now must not bring the model back.
    const absl::Status forgotten = options_.owns_rows ? catalog_.store().DeleteServedModel(name) : absl::OkStatus();
    model->FinishDrain(absl::Now() + absl::Seconds(drain_seconds), options_.now_ms());
    {
      absl::MutexLock lock(&mutex_);
      if (const auto it = models_.find(name); it != models_.end() && it->second == model) models_.erase(it);
    }
    Changed(*model);
    view = model->View();
    RETURN_IF_ERROR(forgotten);
    return ResourceName("servedModels", name);
  };
  RETURN_IF_ERROR(options_.owns_rows
                      ? RunOnce(catalog_.store(), request_id, "UnloadModel", name, options_.now_ms(), unload).status()
                      : unload().status());
  return view;
}

absl::StatusOr<std::shared_ptr<ServedModel>> ModelRegistry::BeginUnload(const std::string& name) {
  absl::MutexLock names(&names_mutex_);
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, Find(name));
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(CheckInNoAlias(aliases_, name));
  if (model->state() != ServedModelState::kFailed) {
    RETURN_IF_ERROR(model->BeginDrain(options_.now_ms()));
  } else if (const auto it = models_.find(name); it != models_.end() && it->second == model) {
    // A model that drains is no target any more; one that FAILED could become one until its name is gone.
    models_.erase(it);
  }
  return model;
}

absl::StatusOr<std::shared_ptr<ServedModel>> ModelRegistry::Find(std::string_view name) const {
  absl::MutexLock lock(&mutex_);
  const auto it = models_.find(name);
  if (it == models_.end()) return NoSuchModel(Names(), name);
  return it->second;
}

bool ModelRegistry::IsServed(std::string_view name) const {
  absl::MutexLock lock(&mutex_);
  return models_.contains(name);
}

std::vector<ServedModelView> ModelRegistry::List() const {
  std::vector<std::shared_ptr<ServedModel>> models;
  {
    absl::MutexLock lock(&mutex_);
    models.reserve(models_.size());
    for (const auto& [name, model] : models_) models.push_back(model);
  }
  std::vector<ServedModelView> views;
  views.reserve(models.size());
  for (const auto& model : models) views.push_back(model->View());
  return views;
}

absl::Status ModelRegistry::Restore() {
  ASSIGN_OR_RETURN(const std::vector<ServedModelRecord> records, catalog_.store().ListServedModels());
  for (const ServedModelRecord& record : records) {
    if (record.replicas == 0) {  // of a backup that was made while a fleet unloaded it
      RETURN_IF_ERROR(catalog_.store().DeleteServedModel(record.name));
      continue;
    }
    LoadArgs args;
    args.name = record.name;
    args.source = record.source;
    args.context_tokens = record.context_tokens;
    const absl::Status loaded = LoadNew(args).status();
    if (!loaded.ok()) AddFailed(record, loaded);
    absl::MutexLock lock(&mutex_);
    if (shutting_down_) return absl::OkStatus();
    restoring_.erase(record.name);
  }
  return absl::OkStatus();
}

void ModelRegistry::AddFailed(const ServedModelRecord& record, const absl::Status& error) {
  std::shared_ptr<ServedModel> failed;
  {
    absl::MutexLock lock(&mutex_);
    if (shutting_down_) return;
    std::shared_ptr<ServedModel>& model = models_[record.name];
    if (model == nullptr) model = std::make_shared<ServedModel>(record.name, record.source, LoadPlan{});
    failed = model;
  }
  failed->Fail(error, options_.now_ms()).IgnoreError();  // FAILED already if it got as far as being loaded
  // What failed may be passing (memory, a disk that is away): the next start tries again.
  catalog_.store().PutServedModel(record).IgnoreError();
  Changed(*failed);
}

void ModelRegistry::DrainAll(absl::Time deadline) {
  std::vector<std::shared_ptr<ServedModel>> models;
  {
    absl::MutexLock lock(&mutex_);
    shutting_down_ = true;
    for (const auto& [name, model] : models_) models.push_back(model);
  }
  for (const auto& model : models) {
    if (model->BeginDrain(options_.now_ms()).ok()) Changed(*model);
  }
  // A model that another call drains is among them: this deadline may be the earlier one.
  std::erase_if(models, [](const auto& model) { return model->state() != ServedModelState::kDraining; });
  for (const auto& model : models) {
    model->FinishDrain(deadline, options_.now_ms());
    Changed(*model);
  }
}

void ModelRegistry::Changed(const ServedModel& model) const {
  if (options_.on_change) options_.on_change(model.View());
}

}  // namespace qamserve
