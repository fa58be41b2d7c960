# The roles, for those who keep them in Terraform. RegisterUsage (hourly products) and MeterUsage (metered ones) stand apart, because
# AWS's managed policy for this purpose holds RegisterUsage alone: take the one that your product needs.

variable "oidc_provider_arn" {
  description = "The EKS cluster's OIDC provider."
  type        = string
}

variable "oidc_issuer" {
  description = "Its issuer without https://."
  type        = string
}

variable "namespace" {
  type = string
}

variable "service_account" {
  type = string
}

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

# EKS: only this service account of this cluster may assume the role, and only for STS.
data "aws_iam_policy_document" "irsa" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${var.oidc_issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "${var.oidc_issuer}:sub"
      values   = ["system:serviceaccount:${var.namespace}:${var.service_account}"]
    }
  }
}

# ECS: the task role.
data "aws_iam_policy_document" "ecs_task" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "tollgate" {
  name_prefix        = "tollgate-"
  assume_role_policy = data.aws_iam_policy_document.irsa.json
}

resource "aws_iam_role_policy" "register_usage" {
  role   = aws_iam_role.tollgate.id
  policy = data.aws_iam_policy_document.register_usage.json
}
