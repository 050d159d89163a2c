package origin

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"aliquot.example/internal/blob"
)

var (
	md5Tag   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	partsTag = regexp.MustCompile(`^([0-9a-f]{32})-([0-9]+)$`)
)

// sum returns the checksum that S3 states for an object, or "" if there is none. It is the SHA-256
// from the upload, or else the ETag: the MD5 of a simple upload, or the MD5 of the MD5s of the
// parts of a multipart upload. The ETag is not a checksum if the object is encrypted with a key
// other than S3's own, or in a directory bucket.
// https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
func (s *S3) sum(ctx context.Context, core *minio.Core, bucket, key string, info minio.ObjectInfo) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(info.ChecksumSHA256)
	if err == nil && len(raw) == 32 && info.ChecksumMode != "COMPOSITE" {
		return blob.Sum{Algorithm: "sha256", Digest: hex.EncodeToString(raw)}.String(), nil
	}
	by := info.Metadata.Get("X-Amz-Server-Side-Encryption")
	encrypted := by != "" && by != "AES256" ||
		info.Metadata.Get("X-Amz-Server-Side-Encryption-Customer-Algorithm") != ""
	if !s.etagIsMD5 || encrypted || strings.HasSuffix(bucket, "--x-s3") {
		return "", nil
	}
	if md5Tag.MatchString(info.ETag) {
		return blob.Sum{Algorithm: "md5", Digest: info.ETag}.String(), nil
	}
	m := partsTag.FindStringSubmatch(info.ETag)
	if m == nil {
		return "", nil
	}
	count, err := strconv.ParseInt(m[2], 10, 64)
	if err != nil {
		return "", nil
	}
	size, err := partSize(ctx, core, bucket, key, info, count)
	if size == 0 || err != nil {
		return "", err
	}
	return blob.Sum{Algorithm: "md5", Digest: m[1], Part: size}.String(), nil
}

// partSize asks for the part size of an object that was uploaded in count parts. It returns 0 if
// the size cannot be determined or the parts differ in size.
func partSize(ctx context.Context, core *minio.Core, bucket, key string, info minio.ObjectInfo,
	count int64) (int64, error) {
	first, err := core.StatObject(ctx, bucket, key, minio.StatObjectOptions{PartNumber: 1})
	var answer minio.ErrorResponse
	switch {
	case err != nil && Final(s3Error(err)), errors.As(err, &answer) && answer.StatusCode/100 == 4:
		return 0, nil // the server does not support part numbers
	case err != nil:
		return 0, s3Error(err)
	case first.Size <= 0 || first.ETag != info.ETag || (info.Size+first.Size-1)/first.Size != count:
		return 0, nil // the parts differ in size
	}
	return first.Size, nil
}
