// JobService over JobManager.
#pragma once

#include "qamserve/v1/job.grpc.pb.h"
#include "server/grpc/call.h"

namespace qamserve {

class JobServiceImpl final : public v1::JobService::CallbackService {
 public:
  explicit JobServiceImpl(ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* CreateQuantizeJob(grpc::CallbackServerContext* call,
                                              const v1::CreateQuantizeJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* CreateEvaluateJob(grpc::CallbackServerContext* call,
                                              const v1::CreateEvaluateJobRequest* request, v1::Job* response) override;
  grpc::ServerUnaryReactor* CreateStudyJob(grpc::CallbackServerContext* call, const v1::CreateStudyJobRequest* request,
                                           v1::Job* response) override;
  grpc::ServerUnaryReactor* GetStudy(grpc::CallbackServerContext* call, const v1::GetStudyRequest* request,
                                     v1::StudyTable* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* call, const v1::GetJobRequest* request,
                                   v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* call, const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override;
  grpc::ServerWriteReactor<v1::Job>* WatchJob(grpc::CallbackServerContext* call,
                                              const v1::WatchJobRequest* request) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* call, const v1::CancelJobRequest* request,
                                      v1::Job* response) override;
  grpc::ServerUnaryReactor* RetryJob(grpc::CallbackServerContext* call, const v1::RetryJobRequest* request,
                                     v1::Job* response) override;
  grpc::ServerUnaryReactor* DeleteJob(grpc::CallbackServerContext* call, const v1::DeleteJobRequest* request,
                                      v1::DeleteJobResponse* response) override;

 private:
  ServiceContext& context_;
};

}  // namespace qamserve
