// An SqlDatabase in which things go wrong: by chance, or all the time, or in that nobody hears of events.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "core/base/rng.h"
#include "server/store/sql_database.h"

namespace qamserve {

// Set at any time, from any thread.
struct DatabaseFaults {
  std::atomic<int> conflicts_in_100{0};     // transactions that are refused: another was faster
  std::atomic<int> unavailable_in_100{0};   // transactions and reads that do not begin
  std::atomic<int> lost_answers_in_100{0};  // transactions that are committed, and told to have failed
  std::atomic<bool> away{false};            // nothing is answered
  std::atomic<bool> read_only{false};       // transactions are refused
  std::atomic<int> refused_in{0};           // so is one: 1 = the next transaction, 2 = the one behind it; 0 = none
  std::atomic<bool> deaf{false};            // listeners hear nothing
  std::atomic<int64_t> injected{0};
};

class FaultyDatabase : public SqlDatabase {
 public:
  FaultyDatabase(std::unique_ptr<SqlDatabase> base, std::shared_ptr<DatabaseFaults> faults)
      : base_(std::move(base)), faults_(std::move(faults)) {}

  absl::Status Transact(absl::FunctionRef<absl::Status(SqlTransaction&)> body) override {
    if (faults_->away || Draw(faults_->unavailable_in_100)) return Away();
    if (faults_->read_only || IsTheRefused()) {
      return FailedPrecondition("STORE_READ_ONLY", "injected: the store cannot be written to");
    }
    if (Draw(faults_->conflicts_in_100)) return Aborted("VERSION_CONFLICT", "injected: another was faster");
    const absl::Status status = base_->Transact(body);
    if (status.ok() && Draw(faults_->lost_answers_in_100)) return Away();
    return status;
  }
  absl::Status Read(absl::FunctionRef<absl::Status(SqlTransaction&)> body) override {
    if (faults_->away || Draw(faults_->unavailable_in_100)) return Away();
    return base_->Read(body);
  }
  bool shared() const override { return base_->shared(); }
  int64_t NowMs() override { return base_->NowMs(); }
  std::shared_ptr<void> Listen(std::function<void(const StoreEvent&)> on_event) override {
    return base_->Listen([faults = faults_, on_event = std::move(on_event)](const StoreEvent& event) {
      if (!faults->deaf) on_event(event);
    });
  }
  absl::Status Exclusive(const std::string& name, absl::FunctionRef<absl::Status()> body) override {
    return base_->Exclusive(name, body);
  }
  std::string Describe() override { return base_->Describe(); }
  std::string_view skip_locked() const override { return base_->skip_locked(); }
  std::string_view for_update() const override { return base_->for_update(); }

 private:
  static absl::Status Away() { return Unavailable("STORE_UNAVAILABLE", "injected: the store does not answer"); }
  bool IsTheRefused() {
    int left = faults_->refused_in;
    while (left > 0 && !faults_->refused_in.compare_exchange_weak(left, left - 1)) {
    }
    return left == 1;
  }
  bool Draw(int in_100) {
    if (in_100 == 0) return false;
    std::lock_guard lock(mutex_);
    const bool drawn = rng_.NextU64() % 100 < static_cast<uint64_t>(in_100);
    if (drawn) ++faults_->injected;
    return drawn;
  }

  const std::unique_ptr<SqlDatabase> base_;
  const std::shared_ptr<DatabaseFaults> faults_;
  std::mutex mutex_;
  Rng rng_{7};
};

}  // namespace qamserve
