# The role of the pod or task, for roles in Terraform. By default it allows RegisterUsage (hourly products); `metered`,
# `contract` or `saas` selects the actions of that mode instead. AWS's managed policies are not enough: the one for
# metering allows only RegisterUsage, and the one for License Manager lacks two actions.
#
# EKS: set oidc_provider_arn, namespace and service_account, and annotate the service account with the output. ECS:
# leave them out.

variable "metered" {
  description = "Whether the product has custom dimensions (MeterUsage)."
  type        = bool
  default     = false
}

variable "contract" {
  description = "Whether the product has contract pricing (License Manager)."
  type        = bool
  default     = false
}

variable "saas" {
  description = "Whether this is the writer of a SaaS product, in the seller's account (BatchMeterUsage, ResolveCustomer)."
  type        = bool
  default     = false
}

variable "oidc_provider_arn" {
  description = "EKS: the ARN of the cluster's OIDC provider. Empty: the role is an ECS task role."
  type        = string
  default     = ""
}

variable "namespace" {
  description = "EKS: the namespace of the service account."
  type        = string
  default     = ""
}

variable "service_account" {
  description = "EKS: the name of the service account."
  type        = string
  default     = ""
}

locals {
  usage  = var.metered ? data.aws_iam_policy_document.meter_usage.json : data.aws_iam_policy_document.register_usage.json
  buyer  = var.contract ? data.aws_iam_policy_document.license.json : local.usage
  policy = var.saas ? data.aws_iam_policy_document.batch_meter_usage.json : local.buyer
  eks    = var.oidc_provider_arn != ""
  # The issuer without https://, which is the end of the provider's ARN.
  issuer = replace(var.oidc_provider_arn, "/^.*:oidc-provider\\//", "")
}

data "aws_caller_identity" "current" {}

data "aws_iam_policy_document" "register_usage" {
  statement {
    sid       = "Register"
    actions   = ["aws-marketplace:RegisterUsage"]
    resources = ["*"]
  }
}

data "aws_iam_policy_document" "meter_usage" {
  statement {
    sid       = "Meter"
    actions   = ["aws-marketplace:MeterUsage"]
    resources = ["*"]
  }
}

data "aws_iam_policy_document" "license" {
  statement {
    sid = "License"
    actions = [
      "license-manager:CheckoutLicense",
      "license-manager:CheckInLicense",
      "license-manager:ExtendLicenseConsumption",
      "license-manager:GetLicense",
      "license-manager:GetLicenseUsage",
      "license-manager:ListReceivedLicenses",
    ]
    resources = ["*"]
  }
}

data "aws_iam_policy_document" "batch_meter_usage" {
  statement {
    sid       = "Batch"
    actions   = ["aws-marketplace:BatchMeterUsage", "aws-marketplace:GetEntitlements", "aws-marketplace:ResolveCustomer"]
    resources = ["*"]
  }
}

# EKS: only this service account of this cluster may assume the role, and only with a token whose
# audience is STS.
data "aws_iam_policy_document" "irsa" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:${var.namespace}:${var.service_account}"]
    }
  }
}

# ECS: only tasks of this account.
data "aws_iam_policy_document" "ecs_task" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [data.aws_caller_identity.current.account_id]
    }
  }
}

resource "aws_iam_role" "tollgate" {
  name_prefix        = "tollgate-"
  assume_role_policy = local.eks ? data.aws_iam_policy_document.irsa.json : data.aws_iam_policy_document.ecs_task.json
}

resource "aws_iam_role_policy" "tollgate" {
  name_prefix = "tollgate-"
  role        = aws_iam_role.tollgate.id
  policy      = local.policy
}

output "role_arn" {
  description = "EKS: the value of the annotation eks.amazonaws.com/role-arn. ECS: the taskRoleArn."
  value       = aws_iam_role.tollgate.arn
}
