// Runs qamctl in this process against a fake server.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "client/qamctl/errors.h"
#include "client/qamctl/run.h"
#include "core/base/digest.h"
#include "core/base/file.h"
#include "tests/client/fake_server.h"
#include "tests/support/temp_folder.h"

namespace qamserve::qamctl {

struct Result {
  int code = 0;
  std::string out;
  std::string err;
};

class QamctlTest : public testing::Test {
 protected:
  // The first two begin alike, so that "abcd" is ambiguous; the third shares its display name with the first.
  QamctlTest() {
    AddCheckpoint("abcd" + std::string(60, '1'), "small");
    AddCheckpoint("abcd" + std::string(60, '2'), "large");
    AddCheckpoint("ef01" + std::string(60, '3'), "small");
    v1::Artifact artifact;
    artifact.set_name("artifacts/" + ArtifactDigest());
    artifact.set_display_name("small-5.5");
    artifact.set_bpw(5.53);
    v1::FileInfo* file = artifact.add_files();
    file->set_name("config.json");
    file->set_sha256(Sha256Hex("{}"));
    file->set_size_bytes(2);
    server_.state().artifacts.push_back(artifact);
    server_.state().files["config.json"] = "{}";
    v1::Job job;
    job.set_name("jobs/1");
    job.set_kind("quantize");
    job.set_state(v1::JOB_STATE_RUNNING);
    job.set_display_name("first");
    server_.state().jobs.push_back(job);
    v1::ServedModel model;
    model.set_name("servedModels/tiny");
    model.set_state(v1::SERVED_MODEL_STATE_READY);
    server_.state().models.push_back(model);
  }

  static std::string ArtifactDigest() { return "0123456789ab" + std::string(52, 'c'); }

  void AddCheckpoint(const std::string& digest, const std::string& display_name) {
    v1::Checkpoint checkpoint;
    checkpoint.set_name("checkpoints/" + digest);
    checkpoint.set_display_name(display_name);
    server_.state().checkpoints.push_back(checkpoint);
  }

  Result Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--address", server_.address()});
    return RunBare(arguments);
  }

  Result RunBare(const std::vector<std::string>& arguments) {
    std::istringstream in(stdin_);
    std::ostringstream out;
    std::ostringstream err;
    Terminal terminal{
        .in = in, .out = out, .err = err, .interrupts = interrupts_, .now_seconds = [this] { return now_; }};
    terminal.in_tty = tty_;
    terminal.out_tty = tty_;
    terminal.err_tty = tty_;
    terminal.screen_size = [this] { return screen_; };
    const int code = RunQamctl(arguments, terminal);
    return {code, out.str(), err.str()};
  }

  std::string WriteFile(const std::string& name, const std::string& text) {
    EXPECT_TRUE(WriteFileAtomically(folder_ / name, text).ok());
    return folder_ / name;
  }

  FakeServer server_;
  TempFolder folder_;
  Interrupts interrupts_;
  std::string stdin_;
  double now_ = 100;
  bool tty_ = false;
  ScreenSize screen_ = {.columns = 80, .rows = 24};
};

}  // namespace qamserve::qamctl
