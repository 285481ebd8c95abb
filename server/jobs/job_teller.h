// Internal to server/jobs: tells notices and changes when the scope ends, after the locks declared behind it are gone.
#pragma once

#include "server/jobs/job_manager.h"

namespace qamserve {

class JobManager::Teller {
 public:
  explicit Teller(JobManager& manager) : manager_(manager) {}
  ~Teller() { manager_.Tell(); }
  Teller(const Teller&) = delete;
  Teller& operator=(const Teller&) = delete;

 private:
  JobManager& manager_;
};

}  // namespace qamserve
